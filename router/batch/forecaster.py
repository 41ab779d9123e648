"""Estimates for a batch: the predictor's, or what is known of the models' past where it fails, is late or too busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.batch.breaker import BreakerState
from apportion.router.batch.estimates import TypicalLengths, prior_estimates
from apportion.router.batch.gate import Gate
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.parts import Part
from apportion.router.estimates import Estimates, concatenate
from apportion.router.prices import ModelPrice

Predict = Callable[[Sequence[RouteItem], Sequence[ModelPrice]], Awaitable[Estimates]]


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What the predictor gets in one call; what is larger alone is not predicted.

    `patience_s`: a batch has begun its last call by then. `urgent`: goes before all that is not, and does without a
    prediction where too many wait.
    """

    items: int = 256
    chars: int = 1_000_000
    patience_s: float = float("inf")
    urgent: bool = True


class Forecaster:
    """Asks the predictor, and knows what to do without it.

    Args:
        predict: success, cost and lengths of requests at given prices.
        part: guards the calls.
        mean_success: (M,), each model's in its training data, in the order of every array.
        max_model_len: (M,), tokens.
        gate: how many calls the predictor has at once, from everyone.
    """

    def __init__(
        self,
        predict: Predict,
        part: Part,
        mean_success: FloatArray,
        max_model_len: FloatArray,
        gate: Gate,
        limits: CallLimits = CallLimits(),
    ) -> None:
        self._predict = predict
        self._part = part
        self._mean_success = mean_success
        self._lengths = TypicalLengths(np.asarray(max_model_len, dtype=float))
        self._gate = gate
        self._limits = limits

    @property
    def state(self) -> BreakerState:
        """Whether the predictor is asked: its breaker's state."""
        return self._part.state

    async def estimate(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Predictions for the items at these prices; the models' means for those that the predictor has none for."""
        until_s = asyncio.get_running_loop().time() + self._limits.patience_s
        parts = []
        for chunk in self._chunks(items):
            estimates = await self._predicted(chunk, prices, until_s)
            if estimates is None:
                estimates = prior_estimates(chunk, self._mean_success, prices, self._lengths.tokens)
            parts.append(estimates)
        return concatenate(parts)

    async def try_again(self) -> None:
        """Asks a predictor that was left alone for long enough, so that no request has to."""
        if self._part.state is BreakerState.half_open:
            free = [ModelPrice(0, 0)] * len(self._mean_success)
            await self._part.ask(lambda: self._checked([RouteItem("trial", "What is 1 plus 1?")], free))

    def _chunks(self, items: Sequence[RouteItem]) -> Iterator[Sequence[RouteItem]]:
        """The items in order, as many in each call as its limits allow."""
        start, chars = 0, 0
        for end, item in enumerate(items):
            more = content_chars(item)
            if end > start and (end - start == self._limits.items or chars + more > self._limits.chars):
                yield items[start:end]
                start, chars = end, 0
            chars += more
        yield items[start:]

    async def _predicted(
        self, chunk: Sequence[RouteItem], prices: Sequence[ModelPrice], until_s: float
    ) -> Estimates | None:
        if len(chunk) == 1 and content_chars(chunk[0]) > self._limits.chars:
            return None
        urgent = self._limits.urgent
        # More than the predictor can do: some do without at once, so that not everybody is late and does.
        if not self._part.asked or (urgent and self._gate.crowded):
            return None
        async with self._gate.place(urgent=urgent):
            if asyncio.get_running_loop().time() > until_s:
                return None
            estimates = await self._part.ask(lambda: self._checked(chunk, prices))
        if estimates is not None:
            self._lengths.learn(estimates)
        return estimates

    async def _checked(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        estimates = await self._predict(items, prices)
        estimates.check(len(items), len(prices))
        return estimates


def content_chars(item: RouteItem) -> int:
    """About how much text there is to read in a request."""
    return sum(map(_chars, (item.content, item.tools or (), dict(item.template_variables))))


def _chars(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_chars, value.values()))
    if isinstance(value, list | tuple):
        return len(value) if value and isinstance(value[0], int) else sum(map(_chars, value))
    return 1
