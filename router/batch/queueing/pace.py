"""How fast a queue gets shorter while it is long."""

from __future__ import annotations

import math

PACE_MEMORY_S = 5.0  # how far back the pace looks


class Pace:
    """Entries that leave the queue in a second of the present backlog, the last seconds counting most.

    While all that waits comes with the next batch, departures say how much arrives, not how much could leave.
    """

    def __init__(self) -> None:
        self._left, self._elapsed_s = 0.0, 0.0
        self._since_s: float | None = None

    def start(self, now_s: float) -> None:
        """There is a backlog."""
        if self._since_s is None:
            self._since_s = now_s

    def stop(self) -> None:
        """The backlog is gone, and what was learned from it: the next one may have another cause."""
        self._left, self._elapsed_s = 0.0, 0.0
        self._since_s = None

    def add(self, count: int, now_s: float) -> None:
        """So many have left since the last time."""
        if self._since_s is not None:
            elapsed_s = now_s - self._since_s
            keep = math.exp(-elapsed_s / PACE_MEMORY_S)
            self._left = keep * self._left + count
            self._elapsed_s = keep * self._elapsed_s + elapsed_s
            self._since_s = now_s

    def seconds_for(self, count: int) -> float:
        """Until so many will have left; 0 while nothing is known of the pace."""
        return count * self._elapsed_s / self._left if self._left > 0 else 0.0
