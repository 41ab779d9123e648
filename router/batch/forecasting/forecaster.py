"""Estimates for a batch: the predictor's, or what is known of the models' past where it fails, is late or too busy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.batch.forecasting.prior import TypicalLengths, prior_estimates
from apportion.router.batch.forecasting.turns import Asked, Row, Turns
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.messages import RouteItem
from apportion.router.estimates import Estimates, gathered
from apportion.router.prices import ModelPrice

Predict = Callable[[Sequence[RouteItem], Sequence[ModelPrice]], Awaitable[Estimates]]


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What the predictor gets in one call; what is larger alone is not predicted.

    Args:
        items: most requests.
        chars: most characters of their texts.
        patience_s: a request whose call has not begun by then goes without.
        urgent: goes before all that is not.
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
        turns: the line of all who ask the predictor.
        media_tokens: (M, 2), the most that a picture and an audio clip count for; None: nothing.
    """

    def __init__(
        self,
        predict: Predict,
        part: Part,
        mean_success: FloatArray,
        max_model_len: FloatArray,
        turns: Turns,
        limits: CallLimits = CallLimits(),
        media_tokens: IntArray | None = None,
    ) -> None:
        self._predict = predict
        self._part = part
        self._mean_success = mean_success
        self._lengths = TypicalLengths(np.asarray(max_model_len, dtype=float))
        self._turns = turns
        self._limits = limits
        self._media_tokens = np.zeros((len(mean_success), 2), dtype=np.int64) if media_tokens is None else media_tokens

    @property
    def state(self) -> BreakerState:
        """Whether the predictor is asked: its breaker's state."""
        return self._part.state

    async def estimate(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Predictions for the items at these prices; the models' means for those that the predictor has none for."""
        answers = await self._answers(items, prices)
        missing = [row for row, answer in enumerate(answers) if answer is None]
        if missing:
            left = [items[row] for row in missing]
            prior = prior_estimates(left, self._mean_success, prices, self._lengths.tokens)
            for place, row in enumerate(missing):
                answers[row] = prior, place
        return self._with_media(gathered([answer for answer in answers if answer is not None]), items, prices)

    def _with_media(self, estimates: Estimates, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        """Pictures and clips count at their most: they were not there when the text was counted."""
        counts = np.array([(item.needs.images, item.needs.audio) for item in items])
        return estimates.with_input(counts @ self._media_tokens.T, prices) if counts.any() else estimates

    async def try_again(self) -> None:
        """Asks a predictor that was left alone for long enough, so that no request has to."""
        if self._part.state is BreakerState.half_open:
            free = [ModelPrice(0, 0)] * len(self._mean_success)
            await self._part.ask(lambda: self._checked([RouteItem("trial", "What is 1 plus 1?")], free))

    async def _answers(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> list[Row | None]:
        answers: list[Row | None] = [None] * len(items)
        if self._part.asked:
            await self.try_again()
        if not self._part.asked:  # nobody stands in line for what is left alone, or tried again by another
            return answers
        chars = [item.size.chars for item in items]
        readable = [row for row, size in enumerate(chars) if size <= self._limits.chars]
        asked = Asked(
            [items[row] for row in readable],
            [chars[row] for row in readable],
            lambda chunk: self._predicted(chunk, prices),
            self._limits.items,
            self._limits.chars,
            self._limits.urgent,
        )
        found = await self._turns.ask(asked, self._limits.patience_s)
        for row, answer in zip(readable, found, strict=True):
            answers[row] = answer
        return answers

    async def _predicted(self, chunk: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates | None:
        estimates = await self._part.ask(lambda: self._checked(chunk, prices))
        answered = [row for row, item in enumerate(chunk) if item.needs.text]
        if estimates is not None and answered:
            self._lengths.learn(estimates.rows(answered))
        return estimates

    async def _checked(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        estimates = await self._predict(items, prices)
        estimates.check(len(items), len(prices))
        return estimates
