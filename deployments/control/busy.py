"""How much of the time something is worked on: what a replica that works on one call after the other is scaled by."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Busy:
    """Knows whether anything is worked on, in whatever threads.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._busy_s = 0.0
        self._began_s = self._at_s = clock()

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """One piece of work, for as long as the context is open."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def share(self) -> float:
        """The share of the time since this was last asked in which there was work."""
        with self._lock:
            self._advance()
            share = self._busy_s / max(self._at_s - self._began_s, 1e-9)
            self._busy_s, self._began_s = 0.0, self._at_s
        return share

    def _count(self, more: int) -> None:
        with self._lock:
            self._advance()
            self._running += more

    def _advance(self) -> None:
        now_s = self._clock()
        if self._running:
            self._busy_s += now_s - self._at_s
        self._at_s = now_s
