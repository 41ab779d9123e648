"""Sends graded prompts to the service and keeps what came back of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.load.chat import Answer, ask_all, greedy_chat
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import MAX_ANSWER_TOKENS, Example

TIMEOUT_S = 120.0
REFUSED = 402  # the batch's cap could not pay for any model: no answer, no cost


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered prompt; `cost_usd` is what was settled, `planned_usd` what was expected.

    `model` is both of a cascade whose second was asked, as `wren>heron`.
    """

    model: str
    score: float
    cost_usd: float
    planned_usd: float
    predicted: float
    rung: str
    batch: int
    batch_planned_usd: float
    batch_cap_usd: float
    latency_s: float


async def answer_all(
    url: str, examples: Sequence[Example], model_of: Callable[[int], str], *, concurrency: int
) -> list[Outcome]:
    """Asks every prompt of the model that `model_of(index)` names, `concurrency` at a time, in order.

    Raises:
        RuntimeError: a request failed, other than for want of money.
    """
    bodies = [greedy_chat(example.prompt, model_of(i), MAX_ANSWER_TOKENS) for i, example in enumerate(examples)]
    answers = await ask_all(url, bodies, concurrency=concurrency, timeout_s=TIMEOUT_S)
    return [outcome(answer, example) for answer, example in zip(answers, examples, strict=True)]


def outcome(answer: Answer, example: Example) -> Outcome:
    """What a whole answer is worth and cost; its `x-router-` headers say what was planned."""
    if answer.status == REFUSED:
        return Outcome("(refused)", 0.0, 0.0, 0.0, 0.0, "-", -1, 0.0, 0.0, answer.latency_s)
    if answer.error:
        raise RuntimeError(f"a request failed: {answer.error}")
    headers = answer.headers
    batch = dict(re.findall(r"([\w-]+)=([^;]+)", headers["x-router-batch"]))
    return Outcome(
        model=headers.get("x-router-model", answer.model),
        score=grade(answer.text, example),
        cost_usd=float(headers["x-router-settled-cost-usd"]),
        planned_usd=float(headers["x-router-cost-usd"]),
        predicted=float(headers["x-router-success"]),
        rung=headers["x-router-rung"],
        batch=int(batch["id"]),
        batch_planned_usd=float(batch["planned-usd"]),
        batch_cap_usd=float(batch["cap-usd"]),
        latency_s=answer.latency_s,
    )


async def first_token_s(url: str, example: Example, model: str, repeats: int) -> list[float]:
    """Seconds to the first token of a stream, one request after the other on an idle service.

    Raises:
        RuntimeError: a request failed, or its stream had no text.
    """
    body = greedy_chat(example.prompt, model, MAX_ANSWER_TOKENS, stream=True)
    times = []
    for answer in await ask_all(url, [body] * repeats, concurrency=1, timeout_s=TIMEOUT_S):
        if answer.error or answer.first_token_s is None:
            raise RuntimeError(f"a stream failed: {answer.error or 'it had no text'}")
        times.append(answer.first_token_s)
    return times
