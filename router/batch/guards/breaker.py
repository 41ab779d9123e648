"""A circuit breaker: what failed several times in a row is left alone for a while, then tried again.

Knows neither a clock nor what it guards. States and transitions as in M. Nygard, Release It!, section 5.2.
"""

from __future__ import annotations

import enum


class BreakerState(enum.StrEnum):
    """closed: all goes through; open: nothing does; half_open: the time is up, one trial decides."""

    closed = "closed"
    open = "open"
    half_open = "half_open"


class Breaker:
    """Opens after `failures` in a row; every failed trial doubles the time until the next one.

    Args:
        failures: failures in a row that open it, >= 1.
        cool_down_s: from the first opening to the first trial.
        longest_s: bound of the doubling.
    """

    def __init__(self, *, failures: int = 3, cool_down_s: float = 1.0, longest_s: float = 30.0) -> None:
        self._failures = failures
        self._cool_down_s = cool_down_s
        self._longest_s = longest_s
        self._in_a_row = 0
        self._trial_at_s: float | None = None
        self._wait_s = cool_down_s

    def state(self, now_s: float) -> BreakerState:
        """The state at this time of a monotonic clock."""
        if self._trial_at_s is None:
            return BreakerState.closed
        return BreakerState.half_open if now_s >= self._trial_at_s else BreakerState.open

    def allows(self, now_s: float) -> bool:
        """Whether to try: closed, or time for a trial."""
        return self.state(now_s) is not BreakerState.open

    @property
    def failed(self) -> bool:
        """Whether it has not worked since it failed last."""
        return self._in_a_row > 0

    def success(self) -> None:
        """It worked: closed again."""
        self._in_a_row, self._trial_at_s, self._wait_s = 0, None, self._cool_down_s

    def failure(self, now_s: float) -> None:
        """It failed. What was begun before it opened and fails while it is open changes nothing."""
        state = self.state(now_s)
        if state is BreakerState.open:
            return
        self._in_a_row += 1
        if state is BreakerState.half_open:
            self._wait_s = min(2 * self._wait_s, self._longest_s)
        elif self._in_a_row < self._failures:
            return
        self._trial_at_s = now_s + self._wait_s
