"""A round of a load: through the router, then the same requests straight to the engines that it chose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load.arrivals import closed_loop, open_loop, poisson_arrivals_s
from benchmarks.load.chat import PATH, Answer, ask, chat_session
from benchmarks.load.cpu import cpu_seconds, load_average, spent_ms
from benchmarks.load.numbers import Target, summary
from benchmarks.load.service import Place
from benchmarks.throughput.case import SHORT, Case
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import Example

TIMEOUT_S = 120.0
Choice = Callable[[int], tuple[Place, str]]  # of a request: where it goes, and the model that it names


def routed(
    case: Case, url: str, examples: Sequence[Example], target: Target, seed: int
) -> tuple[dict[str, Any], list[str]]:
    """The round through the router, and the model that answered each request."""
    answers, found = _measure(case, lambda _: (Place(url), "auto"), examples, target, seed)
    return found, [answer.model for answer in answers]


def direct(
    case: Case,
    engines: Mapping[str, Place],
    mix: Sequence[str],
    examples: Sequence[Example],
    target: Target,
    seed: int,
) -> dict[str, Any]:
    """The same requests to the engines' own ports.

    Args:
        engines: by model. mix: model by request; one that the router refused goes to any.
    """
    spare = next(iter(engines))

    def chosen(number: int) -> tuple[Place, str]:
        model = mix[number] if mix[number] in engines else spare
        return engines[model], model

    return _measure(case, chosen, examples, target, seed)[1]


def _measure(
    case: Case, choice: Choice, examples: Sequence[Example], target: Target, seed: int
) -> tuple[list[Answer], dict[str, Any]]:
    before = cpu_seconds()
    answers, seconds = asyncio.run(_send(case, choice, examples, seed))
    cpu_ms = spent_ms(before, cpu_seconds())
    found = summary(answers, seconds, target)
    found["right"] = right(answers, examples) if case.answers == SHORT else None
    found["cpu_ms_per_request"] = {kind: spent / len(answers) for kind, spent in cpu_ms.items() if spent}
    found["load_average"] = load_average()
    return answers, found


async def _send(case: Case, choice: Choice, examples: Sequence[Example], seed: int) -> tuple[list[Answer], float]:
    async with chat_session(TIMEOUT_S) as session:

        async def call(number: int) -> Answer:
            place, model = choice(number)
            body = case.body(examples[number % len(examples)], model)
            return await ask(session, place.url + PATH, body, place.headers)

        if case.rate_per_s is None:
            return await closed_loop(call, case.requests, case.concurrency or 1)
        return await open_loop(call, poisson_arrivals_s(case.requests, case.rate_per_s, seed))


def right(answers: Sequence[Answer], examples: Sequence[Example]) -> float:
    """Share of right answers; a request that failed is not right."""
    marks = [
        0.0 if answer.error else grade(answer.text, examples[number % len(examples)])
        for number, answer in enumerate(answers)
    ]
    return float(np.mean(marks))
