"""A few places, so that a part has no more calls at once than it can work on; who is urgent goes first."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Gate:
    """Lets some in at once; others wait in the order of their arrival, the urgent in front.

    Args:
        places: at once, >= 1.
        most_waiting: as many urgent ones in line make it `crowded`.
    """

    def __init__(self, places: int, *, most_waiting: int) -> None:
        self._free = places
        self._most_waiting = most_waiting
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()

    @property
    def crowded(self) -> bool:
        """Whether those who come now had better do without."""
        return len(self._urgent) >= self._most_waiting

    @contextlib.asynccontextmanager
    async def place(self, *, urgent: bool) -> AsyncIterator[None]:
        """A place for as long as the context is open; waits for one."""
        await self._enter(self._urgent if urgent else self._patient)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, line: deque[asyncio.Future[None]]) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                line.remove(turn)
            else:  # the place came in the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        for line in (self._urgent, self._patient):
            for turn in line:
                if not turn.done():  # else it was cancelled a moment ago, and takes itself out of the line
                    line.remove(turn)
                    turn.set_result(None)
                    return
        self._free += 1
