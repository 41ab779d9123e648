"""A forecaster from plain objects; what the predictor does is a function."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apportion.router.batch.forecasting.forecaster import CallLimits, FleetFacts, Forecaster, Lane
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.unpriced import Unpriced, concatenate
from tests.router.batch.plain_room import POLICY, Clock, forecasts

LIMITS = CallLimits()


async def broken(*_: object) -> Any:
    raise RuntimeError("gone")


async def predicted(prompts: Sequence[Prompt]) -> Unpriced:
    return forecasts(len(prompts))


@dataclass
class Slow:
    """A predictor that works on one call at a time, so long on each prompt."""

    each_s: float
    calls: list[list[Any]] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, prompts: Sequence[Prompt]) -> Unpriced:
        self.calls.append([prompt.content for prompt in prompts])
        async with self.turn:
            await asyncio.sleep(len(prompts) * self.each_s)
        return forecasts(len(prompts))


def make_forecaster(
    predict: Any,
    *,
    bulk: Any = None,
    clock: Clock | None = None,
    timeout_s: float = 0.05,
    limits: CallLimits = LIMITS,
    ordinary_chars: int = 100_000,
    max_chars: int = 1_000_000,
    media_tokens: Any = ((0, 0), (0, 0)),
) -> Forecaster:
    clock = clock or Clock()
    facts = FleetFacts(
        POLICY.names, np.array([0.4, 0.9]), np.array([100.0, 100.0]), np.array(media_tokens), np.full(2, np.inf)
    )
    return Forecaster(
        Lane(predict, Part("predictor", timeout_s, clock), limits, POLICY.names),
        Lane(bulk or predict, Part("predictor of long texts", timeout_s, clock), CallLimits(items=2), POLICY.names),
        facts,
        ordinary_chars=ordinary_chars,
        max_chars=max_chars,
    )


async def forecast(forecaster: Forecaster, *items: RouteItem, content: str = "hello", **fields: Any) -> Unpriced:
    """Of requests that come at once, each with the same prompt."""
    prompt = Prompt(content, **fields)
    return concatenate(await asyncio.gather(*(forecaster.forecast(item, prompt) for item in items)))
