"""A part of the service that may fail or be slow: asked in time, and left alone after several failures in a row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from apportion.router.batch.guards.breaker import Breaker, BreakerState
from apportion.router.batch.guards.cancellation import is_cancelled
from apportion.router.errors import InvalidRequestError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Part:
    """Guards the calls to one part.

    Args:
        name: in the log.
        timeout_s: later than this its answer is not waited for.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, name: str, timeout_s: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._clock = clock
        self._breaker = Breaker()
        self._on_trial = False

    @property
    def state(self) -> BreakerState:
        return self._breaker.state(self._clock())

    @property
    def asked(self) -> bool:
        """Whether a call would be made now: not while the part is left alone, or while one call tries it again."""
        return self._breaker.allows(self._clock()) and not (self.state is BreakerState.half_open and self._on_trial)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """The part's answer; None if it fails, is late, or has failed so often that it is left alone for now.

        A part that finds a mistake in what it was asked works.
        """
        if not self.asked:
            return None
        trial = self.state is BreakerState.half_open
        self._on_trial |= trial  # one call decides; the others do without meanwhile
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await call()
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            if isinstance(error, InvalidRequestError):
                self._breaker.success()
            else:
                self._breaker.failure(self._clock())
            # Its class only: what an error of a remote part says may quote a request.
            logger.warning("the %s failed, planning without it: %s", self._name, type(error).__name__)
            return None
        finally:
            if trial:  # a call from before the breaker opened may end while another is the trial
                self._on_trial = False
        self._breaker.success()
        return answer
