"""Requests that asked to wait for money: put aside until there is some, then handed back in the order of their arrival.

Knows nothing of money or of requests.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class DelayQueue(Generic[T]):
    """Holds entries by key, each for a time.

    Args:
        back: takes an entry whose time has come.
        places: most entries that can be held.
    """

    def __init__(self, back: Callable[[T], None], *, places: int) -> None:
        self._back = back
        self._places = places
        self._held: dict[str, T] = {}
        self._due: list[tuple[float, int, str]] = []
        self._arrivals = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def put(self, key: str, entry: T, delay_s: float) -> bool:
        """Puts an entry aside; False if there is no place."""
        if len(self._held) >= self._places:
            return False
        loop = asyncio.get_running_loop()
        self._held[key] = entry
        heapq.heappush(self._due, (loop.time() + delay_s, next(self._arrivals), key))
        self._set_timer()
        return True

    def discard(self, key: str) -> None:
        """Forgets an entry."""
        self._held.pop(key, None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._timer = asyncio.get_running_loop().call_at(self._due[0][0], self._release)

    def _release(self) -> None:
        now_s = asyncio.get_running_loop().time()
        due = []
        while self._due and self._due[0][0] <= now_s:
            _, arrival, key = heapq.heappop(self._due)
            if key in self._held:
                due.append((arrival, self._held.pop(key)))
        for _, entry in sorted(due, key=lambda pair: pair[0]):
            self._back(entry)
        self._set_timer()
