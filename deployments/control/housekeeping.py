"""Work that is due every second: each step by itself, so that one that fails holds up no other.

Steps that wait for others, a database or another deployment, have rounds of their own: that those are late is no fault
of this process, and a restart would not mend it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context

from apportion.router.errors import UnavailableError

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
LATE_S = 10.0  # a round of steps that wait for nobody hangs if it has not ended by then

Step = Callable[[], Awaitable[None]]


class Housekeeping:
    """Runs its steps round by round from the first `start` on.

    Args:
        steps: by the name that the log has for them.
        waiting_steps: those that wait for others, each in rounds of its own.
    """

    def __init__(self, steps: Mapping[str, Step], waiting_steps: Mapping[str, Step]) -> None:
        self._rounds = [steps, *({name: step} for name, step in waiting_steps.items())]
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ended_s = time.monotonic()

    def start(self) -> None:
        """Starts the rounds, or those again that have ended; does nothing while they run."""
        for number, steps in enumerate(self._rounds):
            task = self._tasks.get(number)
            if task is None or task.done():
                if steps is self._rounds[0]:
                    self._ended_s = time.monotonic()
                # In a context of its own: Serve cancels what was called in that of a call that is cancelled.
                self._tasks[number] = asyncio.create_task(self._run(steps), context=Context())

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def check(self) -> None:
        """Raises: UnavailableError: rounds have stopped, or hang although they wait for nobody."""
        late_s = time.monotonic() - self._ended_s
        if self._tasks and (late_s > LATE_S or any(task.done() for task in self._tasks.values())):
            raise UnavailableError(f"the router's housekeeping has not been done for {late_s:.0f} s")

    async def _run(self, steps: Mapping[str, Step]) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            for name, step in steps.items():
                try:
                    await step()
                except Exception:
                    logger.exception("housekeeping failed at its step %s", name)
            if steps is self._rounds[0]:
                self._ended_s = time.monotonic()
