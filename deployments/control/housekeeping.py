"""Work that is due every second: each step by itself, so that one that fails holds up no other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from apportion.router.errors import UnavailableError

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
LATE_S = 30.0  # a round that has not ended by then hangs

Step = Callable[[], Awaitable[None]]


class Housekeeping:
    """Runs its steps round by round from the first `start` on.

    Args:
        steps: by the name that the log has for them.
    """

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = steps
        self._task: asyncio.Task[None] | None = None
        self._ended_s = time.monotonic()

    def start(self) -> None:
        """Starts the rounds, or starts them again if they have ended; does nothing while they run."""
        if self._task is None or self._task.done():
            self._ended_s = time.monotonic()
            self._task = asyncio.create_task(self._rounds())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def check(self) -> None:
        """Raises: UnavailableError: the rounds have stopped or hang."""
        late_s = time.monotonic() - self._ended_s
        if self._task is not None and (self._task.done() or late_s > LATE_S):
            raise UnavailableError(f"the router's housekeeping has not been done for {late_s:.0f} s")

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            for name, step in self._steps.items():
                try:
                    await step()
                except Exception:
                    logger.exception("housekeeping failed at its step %s", name)
            self._ended_s = time.monotonic()
