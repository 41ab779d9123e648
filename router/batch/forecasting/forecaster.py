"""Forecasts of requests: the predictor's, or what is known of the models' past where it fails, is late or too busy."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.batch.forecasting.prior import TypicalLengths, prior_forecast
from apportion.router.batch.forecasting.turns import Turns
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.batch.size import told_chars
from apportion.router.errors import ContextLengthError
from apportion.router.unpriced import Unpriced
from apportion.router.variants import covers

Predict = Callable[[Sequence[Prompt]], Awaitable[Unpriced]]

LOOK_S = 0.1  # between two looks whether it is time to try a predictor again
TRIAL = Prompt("What is 1 plus 1?")


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What the predictor gets in one call.

    Args:
        items: most requests.
        chars: most characters of their texts; what is longer alone is no ordinary call's.
        places: calls at once.
        patience_s: a request whose call has not begun by then goes without.
    """

    items: int = 32
    chars: int = 100_000
    places: int = 1
    patience_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What is known of the models without a predictor.

    Args:
        models: their names, in the order of every array.
        mean_success: (M,), each model's in its training data.
        max_model_len: (M,), tokens.
        media_tokens: (M, 2), the most that a picture and an audio clip count for.
        max_tokens: (M,), of an answer, as variants limit it; inf: they do not.
    """

    models: tuple[str, ...]
    mean_success: FloatArray
    max_model_len: FloatArray
    media_tokens: IntArray
    max_tokens: FloatArray


class Lane:
    """A line for the predictor with a breaker of its own: what goes wrong in it harms no other.

    Args:
        predict: the predictor.
        part: guards the calls.
        limits: of a call.
        models: that answers have to be of.
    """

    def __init__(self, predict: Predict, part: Part, limits: CallLimits, models: Sequence[str]) -> None:
        self._predict = predict
        self._part = part
        self._limits = limits
        self._models = models
        self._turns = Turns(self._guarded, limits.places, limits.items, limits.chars)
        self._trials: asyncio.Task[None] | None = None

    @property
    def state(self) -> BreakerState:
        return self._part.state

    async def ask(self, prompt: Prompt, item: RouteItem, *, patient: bool = False) -> Unpriced | None:
        """The prediction; None where there is none in time.

        Args:
            patient: it waits for its call however long that takes.
        """
        if self.state is not BreakerState.closed:  # nobody stands in line for what is left alone or tried again
            self._try_again()
            return None
        return await self._turns.ask(prompt, item.account, float("inf") if patient else self._limits.patience_s)

    async def _guarded(self, prompts: Sequence[Prompt]) -> Unpriced | None:
        found = await self._part.ask(lambda: self._checked(prompts))
        if self.state is not BreakerState.closed:
            self._try_again()
        return found

    async def _checked(self, prompts: Sequence[Prompt]) -> Unpriced:
        found = await self._predict(prompts)
        found.check(self._models, len(prompts))
        return found

    def _try_again(self) -> None:
        """Asks from time to time until there is an answer, so that no request has to."""
        if self._trials is None or self._trials.done():
            # In a context of its own: Serve cancels what was called in that of a client that leaves.
            self._trials = asyncio.create_task(self._try(), context=Context())

    async def _try(self) -> None:
        while self.state is not BreakerState.closed:
            await asyncio.sleep(LOOK_S)
            if self.state is BreakerState.half_open:
                await self._part.ask(lambda: self._checked([TRIAL]))

    def close(self) -> None:
        if self._trials is not None:
            self._trials.cancel()


class Forecaster:
    """Asks the predictor, and knows what to do without it.

    Args:
        ordinary: what requests to be run ask.
        bulk: what is asked beside them: of long texts, and of requests that are only planned.
        facts: what is known without a predictor.
        ordinary_chars: longer texts are no ordinary ones.
        max_chars: longer texts are not predicted.

    Attributes:
        token_chars: (M,), of a text's characters that are not blank, the most that one token of each model stands for
            (None: any number), once it is known.
    """

    def __init__(self, ordinary: Lane, bulk: Lane, facts: FleetFacts, *, ordinary_chars: int, max_chars: int) -> None:
        self._ordinary = ordinary
        self._bulk = bulk
        self._facts = facts
        self._ordinary_chars = ordinary_chars
        self._max_chars = max_chars
        self.token_chars: tuple[int | None, ...] = (None,) * len(facts.models)
        self._lengths = TypicalLengths(np.minimum(facts.max_model_len, facts.max_tokens))

    @property
    def state(self) -> BreakerState:
        """Whether the predictor is asked."""
        return self._ordinary.state

    async def forecast(self, item: RouteItem, prompt: Prompt, *, planned_only: bool = False) -> Unpriced:
        """What is expected of the request; by the models' means where the predictor says nothing.

        Args:
            planned_only: it is not run, and waits for its turn.

        Raises:
            ContextLengthError: its text is longer than any context holds, whatever it says.
        """
        if not planned_only:  # of a list each is told what becomes of it
            self._check_length(item, prompt)
        found: Unpriced | None = None
        if prompt.chars <= self._max_chars:
            lane = self._bulk if planned_only or prompt.chars > self._ordinary_chars else self._ordinary
            found = await lane.ask(prompt, item, patient=planned_only)
        if found is None:
            found = prior_forecast(prompt, self._facts.models, self._facts.mean_success, self._lengths.tokens)
        elif item.needs.text:
            self._lengths.learn(found)
        images, audio = item.needs.images, item.needs.audio
        if not (images or audio):
            return found
        # They count at their most: they were not there when the text was counted.
        return found.with_input(self._facts.media_tokens @ np.array([images, audio]))

    def _check_length(self, item: RouteItem, prompt: Prompt) -> None:
        """Refuses what is too long for the model that it names, or for all of them, by its length alone."""
        names = self._facts.models if item.model is None else (item.model,)
        named = [column for column, model in enumerate(self._facts.models) if covers(names, model)]
        bounds = [(self._facts.max_model_len[column], self.token_chars[column]) for column in named]
        known = [(longest, chars) for longest, chars in bounds if chars is not None]
        if len(known) < len(bounds) or not known or prompt.chars <= min(longest * chars for longest, chars in known):
            return
        size = told_chars(prompt.content)
        fewest = [(longest, math.ceil(size / chars)) for longest, chars in known]
        longest, least = max(fewest, key=lambda one: one[0] - one[1])  # the model that has most room
        if least > longest:
            raise ContextLengthError(
                f"this model's maximum context length is {longest:.0f} tokens; the prompt has at least {least} tokens: "
                "shorten the prompt"
            )

    def close(self) -> None:
        """Asks no more."""
        self._ordinary.close()
        self._bulk.close()
