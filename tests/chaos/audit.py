"""Holds what came back against what was promised; every function returns what is wrong, in words.

Pure: outcomes and outages in, complaints out.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from apportion.router.prices import ModelPrice
from apportion.router.variants import model_of
from tests.chaos.client import GRACE_S, Outcome
from tests.chaos.kills import ENGINE, Outage
from tests.chaos.plan import Kind

ENVELOPE = {"message", "type", "param", "code"}
EARLY_S = 0.02  # timers of client and service may differ by so much


def accounted(planned: int, outcomes: Sequence[Outcome]) -> list[str]:
    """Requests in = answers + clean errors + connections lost + clients that left; nothing hangs."""
    wrong = [f"{planned} requests were planned, {len(outcomes)} have an outcome"] if planned != len(outcomes) else []
    for outcome in outcomes:
        if outcome.hung:
            wrong.append(_say(outcome, f"no end {GRACE_S:g} s after its deadline"))
        elif outcome.status is None and not outcome.left and not outcome.broken:
            wrong.append(_say(outcome, "neither an answer nor an error"))
    return wrong


def deadlines(outcomes: Sequence[Outcome], timeout_s: float) -> list[str]:
    """A deadline is told when it is over, not before; `accounted` finds those that are told too late."""
    wrong = []
    for outcome in outcomes:
        limit_s = outcome.shot.timeout_s or timeout_s
        took_s = outcome.ended_s - outcome.started_s
        late = (outcome.error or {}).get("code") == "deadline_exceeded"
        if late and took_s < limit_s - EARLY_S:
            wrong.append(_say(outcome, f"'deadline exceeded' after {took_s:.3f} s of {limit_s:g}"))
        if outcome.status == 504 and not late and not outcome.broken:  # `statuses` looks at what broke
            wrong.append(_say(outcome, "504 without the code deadline_exceeded"))
    return wrong


def statuses(outcomes: Sequence[Outcome], outages: Sequence[Outage]) -> list[str]:
    """Every status is one that the request may get; a connection may break only when its ingress is killed."""
    wrong = []
    for outcome in outcomes:
        if _lost(outcome) and _struck(outcome, outages, "Ingress"):
            continue
        if outcome.broken:
            wrong.append(_say(outcome, f"the connection broke: {outcome.broken}"))
        elif outcome.status is not None:
            may_be = outcome.status in outcome.shot.statuses or _excused(outcome, outages)
            if not (may_be and _clean(outcome)):
                wrong.append(_say(outcome, f"unexpected: {outcome.body[:300]!r}"))
    return wrong


def _lost(outcome: Outcome) -> bool:
    """Whether its connection broke, or the proxy answered in the place of an ingress."""
    return bool(outcome.broken) or (outcome.status in {500, 502, 503} and outcome.error is None)


def _struck(outcome: Outcome, outages: Sequence[Outage], part: str) -> bool:
    return any(o.part == part and o.struck(outcome.started_s, outcome.ended_s) for o in outages)


def _clean(outcome: Outcome) -> bool:
    """Whether an error has OpenAI's envelope, and shedding its own code and the time to come back."""
    if outcome.status is None or outcome.status < 400:
        return True
    error = outcome.error or {}
    if set(error) != ENVELOPE:
        return False
    if outcome.status == 429 and outcome.shot.kind not in {Kind.poor}:
        return error["code"] == "overloaded" and "retry-after" in (outcome.headers or {})
    return True


def streams(outcomes: Sequence[Outcome], outages: Sequence[Outage]) -> list[str]:
    """A stream ends once: with its cost and [DONE], or with an error event and [DONE]."""
    wrong = []
    for outcome in outcomes:
        if not outcome.streamed or outcome.left or outcome.broken:
            continue
        events = outcome.events
        if events.count("[DONE]") != 1 or events[-1] != "[DONE]":
            if not _struck(outcome, outages, "Ingress"):
                wrong.append(_say(outcome, f"its end: {events[-2:]}"))
            continue
        error = outcome.error
        if error is None and len(outcome.comments) != 1:
            wrong.append(_say(outcome, f"complete, but its cost was told {len(outcome.comments)} times"))
        if error is not None and error["code"] != "deadline_exceeded":
            model = (outcome.headers or {}).get("x-router-model")
            if not _struck(outcome, outages, f"{ENGINE}{model_of(model or '')}"):
                wrong.append(_say(outcome, f"broke off, though nobody killed {model} at that time: {error}"))
    return wrong


def answered_once(outcomes: Sequence[Outcome]) -> list[str]:
    """No completion reached two clients, and none came twice in one stream."""
    seen: dict[str, int] = {}
    wrong = []
    for outcome in outcomes:
        for name in completion_ids(outcome):
            if name in seen:
                wrong.append(_say(outcome, f"{name} was the answer of request {seen[name]} too"))
            seen[name] = outcome.shot.index
        finishes = Counter(finish_indices(outcome))
        if any(count > 1 for count in finishes.values()):
            wrong.append(_say(outcome, "a choice that ends more than once"))
    return wrong


def same_answers(outcomes: Sequence[Outcome]) -> tuple[int, list[str]]:
    """Engines decode greedily, so a model answers a prompt alike every time, streamed or not.

    Returns:
        How many answers were compared with at least one other, and which differ from most of their kind.
    """
    texts: dict[tuple[str, str], list[tuple[str, Outcome]]] = defaultdict(list)
    for outcome in outcomes:
        whole = outcome.status == 200 and not outcome.left and not outcome.broken and outcome.error is None
        if whole and "ignore_eos" not in outcome.shot.body:
            model = (outcome.headers or {})["x-router-model"]
            texts[model, outcome.shot.prompt].append((answer_text(outcome), outcome))
    wrong, compared = [], 0
    for (model, _), answers in texts.items():
        if len(answers) > 1:
            compared += len(answers)
            usual, _ = Counter(text for text, _ in answers).most_common(1)[0]
            wrong += [_say(o, f"{model} said {text!r}, else {usual!r}") for text, o in answers if text != usual]
    return compared, wrong


def settled(outcomes: Sequence[Outcome], prices: dict[str, ModelPrice]) -> list[str]:
    """What an answer cost is its counted tokens at its model's price."""
    wrong = []
    for outcome in outcomes:
        if outcome.status != 200 or outcome.streamed or outcome.left or outcome.broken:
            continue
        usage = json.loads(outcome.body)["usage"]
        model = (outcome.headers or {})["x-router-model"]
        cost_usd = prices[model_of(model)].cost_usd(usage["prompt_tokens"], usage["completion_tokens"])
        if abs(float(outcome.settled_usd or "nan") - cost_usd) > 1e-5 * cost_usd:
            wrong.append(_say(outcome, f"{cost_usd} USD of tokens, settled {outcome.settled_usd}"))
    return wrong


def answer_text(outcome: Outcome) -> str:
    """The text of all choices."""
    if not outcome.streamed:
        return "|".join(_text(choice, "message") for choice in json.loads(outcome.body)["choices"])
    chunks = [json.loads(event) for event in outcome.events if event != "[DONE]"]
    return "".join(_text(choice, "delta") for chunk in chunks for choice in chunk.get("choices", ()))


def completion_ids(outcome: Outcome) -> set[str]:
    """The engine's names of what it generated; none where the body is not whole."""
    return {chunk["id"] for chunk in _chunks(outcome) if "id" in chunk}


def finish_indices(outcome: Outcome) -> Iterable[int]:
    """The choices that were said to have ended."""
    for chunk in _chunks(outcome):
        for choice in chunk.get("choices", ()):
            if choice.get("finish_reason"):
                yield choice["index"]


def _chunks(outcome: Outcome) -> Iterable[dict[str, Any]]:
    if outcome.status != 200:
        return
    for text in outcome.events if outcome.streamed else [outcome.body.decode()]:
        try:
            chunk = json.loads(text)
        except ValueError:
            continue  # [DONE], or what a client that left has not read to its end
        if isinstance(chunk, dict):
            yield chunk


def _text(choice: dict[str, Any], field: str) -> str:
    return (choice[field].get("content") if field in choice else choice.get("text")) or ""


def _excused(outcome: Outcome, outages: Sequence[Outage]) -> bool:
    """What an engine's absence explains: 503 for who names its model, and where the cap could pay only for that one.

    The absence of any other part explains no refusal: without it requests wait, or are planned on a lower rung.
    """
    away = {outage.model for outage in outages if outage.touches(outcome.started_s, outcome.ended_s)} - {None}
    named = outcome.shot.body.get("model") if isinstance(outcome.shot.body, dict) else None
    unpaid = bool(away) and "could be paid" in (outcome.error or {}).get("message", "")
    return outcome.status == 503 and (named in away or unpaid)


def _say(outcome: Outcome, what: str) -> str:
    shot = outcome.shot
    return f"request {shot.index} ({shot.kind}), status {outcome.status}: {what}"
