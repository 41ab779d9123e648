"""What was last answered to a question whose answer may take long, or never come."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Recent(Generic[T]):
    """Asks once at a time, however many want to know, and remembers.

    Args:
        name: of what is asked, in the log.
        ask: the question.
        clock: seconds of a monotonic clock.

    Attributes:
        answer: the last one; None before the first.
        error: why the last attempt brought none; None if it did.
    """

    def __init__(self, name: str, ask: Callable[[], Awaitable[T]], clock: Callable[[], float]) -> None:
        self.answer: T | None = None
        self.error: Exception | None = None
        self._name = name
        self._ask = ask
        self._clock = clock
        self._heard_s = -math.inf
        self._asking: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float:
        """Of the last answer."""
        return self._clock() - self._heard_s

    async def within(self, max_age_s: float, patience_s: float) -> T | None:
        """The last answer; asks again if that is as old as `max_age_s`, and waits for it at most `patience_s`."""
        if self.age_s >= max_age_s:
            if self._asking is None or self._asking.done():
                # In a context of its own: Serve cancels what was called in the context of a client that leaves.
                self._asking = asyncio.create_task(self._renew(), context=Context())
            await asyncio.wait({self._asking}, timeout=patience_s)
        return self.answer

    async def _renew(self) -> None:
        try:
            self.answer = await self._ask()
        except Exception as error:
            logger.warning("%s cannot be had: %s", self._name, type(error).__name__)
            self.error = error
        else:
            self.error, self._heard_s = None, self._clock()
