"""Asking every model every prompt: bounded in number and money, every answer journaled, then judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

from apportion.deployments.collect.endpoint import Answer, Endpoint
from apportion.deployments.collect.journal import Journal, Key
from apportion.deployments.collect.judges import Judge
from apportion.deployments.collect.questions import Question
from apportion.deployments.wire.logprobs import asking_for_logprobs
from apportion.router.errors import ConfigurationError, UnavailableError
from apportion.router.prices import ModelPrice

_TEMPLATE_TOKENS = 1024  # more than a chat template adds
_OUTAGE = (
    8  # prompts in a row that a model fails with what is temporary: it is out, and nothing is known of the prompts
)


@dataclass(frozen=True)
class Plan:
    """What is to be collected. parameters: sent with every request, unless its line says otherwise.

    by_completions: models that are sent prompts that are texts as they are, to /completions, as base models need it.
    judge_name: under which scores are journaled; answers that another judge scored are judged anew, not asked again.
    budget_usd: with what the journal has spent before; None: no limit.
    signals: ask for log-probabilities too, which tell how sure a model was of its answer.
    """

    questions: Sequence[Question]
    models: Sequence[str]
    prices: Mapping[str, ModelPrice]
    judge: Judge
    judge_name: str
    parameters: Mapping[str, Any]
    samples: int = 1
    concurrency: int = 8
    budget_usd: float | None = None
    by_completions: Collection[str] = ()
    retry_failures: bool = False
    signals: bool = False

    def asks(self) -> Iterator[tuple[Question, Key]]:
        """Everything to ask, a question's models one after the other, so that what is complete is whole rows."""
        for question in self.questions:
            for model in self.models:
                for sample in range(self.samples):
                    yield question, (question.query_id, model, sample)

    def body(self, question: Question, model: str) -> dict[str, Any]:
        """The request."""
        body = question.body(self.parameters, completions=model in self.by_completions)
        return {"model": model, **(asking_for_logprobs(body) if self.signals else body)}

    def digest(self, question: Question, model: str) -> str:
        """Of the question as this model is asked it."""
        return question.digest(completions=model in self.by_completions)

    def is_cut_short(self) -> bool:
        """Whether an answer is limited by nothing but what /completions takes for its limit."""
        bodies = (self.body(question, model) for question in self.questions for model in self.by_completions)
        return any("prompt" in body and body.get("max_tokens") is None for body in bodies)

    def check(self, journal: Journal) -> None:
        """Raises: ConfigurationError: the journal is of other questions, or the budget cannot be kept."""
        for question, key in self.asks():
            answered = journal.answers.get(key)
            asked_anew = answered is None or (self.retry_failures and answered.get("error") is not None)
            if answered is not None and not asked_anew and answered["digest"] != self.digest(question, key[1]):
                raise ConfigurationError(
                    f"query {question.query_id!r} is not what {journal.file} holds an answer of {key[1]!r} to; give it "
                    "another query_id, or another --out"
                )
            if self.budget_usd is not None and (answered is None or self.retry_failures):
                self.worst_usd(question, key[1])

    def worst_usd(self, question: Question, model: str) -> float:
        """The most that an answer can cost: a token has at least one byte.

        Raises:
            ConfigurationError: the model has no price, or nothing limits the answer.
        """
        body = self.body(question, model)
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        if model not in self.prices:
            raise ConfigurationError(f"model {model!r} has no price, which --budget-usd needs; give --price")
        if limit is None:
            raise ConfigurationError(
                f"query {question.query_id!r}: nothing limits its answer, which --budget-usd needs; give --max-tokens"
            )
        return self.prices[model].cost_usd(len(json.dumps(body).encode()) + _TEMPLATE_TOKENS, limit)


class Collector:
    """One run of a plan against one endpoint."""

    def __init__(self, plan: Plan, journal: Journal, endpoint: Endpoint, tell: Callable[[], None]) -> None:
        self._plan = plan
        self._journal = journal
        self._endpoint = endpoint
        self._tell = tell
        self._reserved_usd = 0.0
        self._settled = asyncio.Condition()
        self._answering = {model for (_, model, _), line in journal.answers.items() if line.get("error") is None}
        self._in_doubt: dict[str, list[tuple[Key, dict[str, Any]]]] = {}  # failures that may be an outage, by model

    def left(self) -> list[tuple[Question, Key]]:
        """What has no score by this plan's judge yet."""
        return [(question, key) for question, key in self._plan.asks() if not self._is_done(key)]

    async def run(self) -> None:
        """Ask, and judge, what is left, until it is done or the budget is spent.

        Raises:
            ApportionError: the endpoint, or the judge, is at fault; what was answered is in the journal.
        """
        for model, price in self._plan.prices.items():
            usd = list(astuple(price))
            if model in self._plan.models and self._journal.prices.get(model) != usd:
                self._journal.append({"kind": "price", "model": model, "usd_per_million": usd})
        todo = iter(self.left())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.concurrency):
                    group.create_task(self._work(todo))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        for model in self._plan.models:
            self._believe(model)

    def _is_done(self, key: Key) -> bool:
        answer = self._journal.answers.get(key)
        if answer is None:
            return False
        if answer.get("error") is not None:
            return not self._plan.retry_failures
        return (key, self._plan.judge_name) in self._journal.scores

    async def _work(self, todo: Iterator[tuple[Question, Key]]) -> None:
        for question, key in todo:
            answer = self._journal.answers.get(key)
            if answer is None or answer.get("error") is not None:
                answer = await self._ask(question, key)
            if answer is not None and answer.get("error") is None:
                score = await self._plan.judge(answer["text"], {**question.row, "model": key[1]})
                self._append("score", key, judge=self._plan.judge_name, score=score)
            self._tell()

    async def _ask(self, question: Question, key: Key) -> dict[str, Any] | None:
        """The journaled answer; None where the budget does not allow to ask, or the model may be out."""
        plan, model = self._plan, key[1]
        worst_usd = 0.0 if plan.budget_usd is None else plan.worst_usd(question, model)
        if not await self._reserve(worst_usd):
            return None
        try:
            body = plan.body(question, model)
            path = "completions" if "prompt" in body else "chat/completions"
            may_ask = partial(self._may_ask_again, key, worst_usd)
            answer = await self._endpoint.ask(path, body, may_ask, known=model in self._answering)
            return None if answer is None else self._take(question, key, answer, worst_usd)
        finally:
            async with self._settled:
                self._reserved_usd -= worst_usd
                self._settled.notify_all()

    def _take(self, question: Question, key: Key, answer: Answer, worst_usd: float) -> dict[str, Any] | None:
        """Journals an answer, and what was in doubt before it; None while it is in doubt itself.

        Raises:
            UnavailableError: too many prompts in a row failed with what is temporary.
        """
        model = key[1]
        line = {
            "digest": self._plan.digest(question, model),
            "text": answer.text,
            "error": answer.error,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "cached_tokens": answer.cached_tokens,
            **({} if answer.signals is None else {"signals": answer.signals}),
        }
        if not answer.temporary:
            self._believe(model)
            if answer.error is None:
                self._answering.add(model)
            return self._append("answer", key, **line, cost_usd=self._cost_usd(answer, model, worst_usd))
        if answer.lost and worst_usd:
            self._append("lost", key, cost_usd=worst_usd)
        doubts = self._in_doubt.setdefault(model, [])
        doubts.append((key, line | {"cost_usd": None if answer.lost else 0.0}))
        prompts = len({query_id for (query_id, _, _), _ in doubts})
        if prompts >= _OUTAGE:
            raise UnavailableError(
                f"model {model!r}: {answer.error}, for {prompts} prompts in a row, which are not recorded; run "
                "this again when it answers, or give --timeout-s more"
            )
        return None

    def _believe(self, model: str) -> None:
        """The model is there: what it failed before were its failures."""
        for key, line in self._in_doubt.pop(model, []):
            self._append("answer", key, **line)

    def _cost_usd(self, answer: Answer, model: str, worst_usd: float) -> float | None:
        """What the answer cost; a refusal costs nothing, and an answer of unknown length the most that it can."""
        if answer.error is not None:
            return 0.0
        if answer.input_tokens is None or answer.output_tokens is None:
            return worst_usd or None
        price = self._plan.prices.get(model)
        if price is None:
            return None
        return price.cost_usd(answer.input_tokens, answer.output_tokens, answer.cached_tokens or 0)

    async def _reserve(self, usd: float) -> bool:
        """Set the money aside, once what is under way leaves it; False where it never will."""
        budget_usd = self._plan.budget_usd
        async with self._settled:
            while budget_usd is not None and self._journal.spent_usd + self._reserved_usd + usd > budget_usd:
                if not self._reserved_usd or self._journal.spent_usd + usd > budget_usd:
                    return False
                await self._settled.wait()
            self._reserved_usd += usd
        return True

    async def _may_ask_again(self, key: Key, worst_usd: float) -> bool:
        """Count an attempt that was lost as charged; whether the budget allows another one beside it."""
        if worst_usd:
            self._append("lost", key, cost_usd=worst_usd)
        budget_usd = self._plan.budget_usd
        return budget_usd is None or self._journal.spent_usd + self._reserved_usd <= budget_usd

    def _append(self, kind: str, key: Key, **values: Any) -> dict[str, Any]:
        line = {"kind": kind, "query_id": key[0], "model": key[1], "sample": key[2], **values}
        self._journal.append(line)
        return line
