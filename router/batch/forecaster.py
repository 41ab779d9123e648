"""Estimates for a batch: the predictor's, or what is known of the models' past where it fails or is late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.batch.breaker import BreakerState
from apportion.router.batch.estimates import TypicalLengths, prior_estimates
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.parts import Part
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice

Predict = Callable[[Sequence[RouteItem], Sequence[ModelPrice]], Awaitable[Estimates]]


class Forecaster:
    """Asks the predictor, and knows what to do without it.

    Args:
        predict: success, cost and lengths of requests at given prices.
        part: guards the calls.
        mean_success: (M,), each model's in its training data, in the order of every array.
        max_model_len: (M,), tokens.
    """

    def __init__(self, predict: Predict, part: Part, mean_success: FloatArray, max_model_len: FloatArray) -> None:
        self._predict = predict
        self._part = part
        self._mean_success = mean_success
        self._lengths = TypicalLengths(np.asarray(max_model_len, dtype=float))

    @property
    def state(self) -> BreakerState:
        """Whether the predictor is asked: its breaker's state."""
        return self._part.state

    async def estimate(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Predictions for the items at these prices; the models' means where the predictor fails or is late."""
        estimates = await self._part.ask(lambda: self._checked(items, prices))
        if estimates is None:
            return prior_estimates(items, self._mean_success, prices, self._lengths.tokens)
        self._lengths.learn(estimates)
        return estimates

    async def try_again(self) -> None:
        """Asks a predictor that was left alone for long enough, so that no request has to."""
        if self._part.state is BreakerState.half_open:
            free = [ModelPrice(0, 0)] * len(self._mean_success)
            await self._part.ask(lambda: self._checked([RouteItem("trial", "What is 1 plus 1?")], free))

    async def _checked(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        estimates = await self._predict(items, prices)
        estimates.check(len(items), len(prices))
        return estimates
