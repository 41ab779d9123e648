"""A clock for windows of money: it goes with the machine's, but not along with its jumps.

A jump forward counts once it has lasted: what a time service sets right again within minutes changes nothing. A jump
backward never counts, so that no window comes twice; until the process starts anew its clock is that much ahead.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

JUMP_S = 2.0  # within a call's distance of a second or so; less is a clock that is set right slowly
CONFIRM_S = 600.0


class SteadyClock:
    """Seconds since 1970, by the wall clock as long as that goes steadily.

    Args:
        wall: seconds since 1970.
        monotonic: seconds that never jump.
    """

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._jumped_s = self._changed_s = monotonic()
        self._seen_s = self._offset_s = wall() - monotonic()
        self._ahead_s = 0.0  # of the wall clock before this one

    def __call__(self) -> float:
        now_s = self._monotonic()
        seen_s = self._wall() - now_s
        moved_s, self._seen_s = seen_s - self._seen_s, seen_s
        if abs(moved_s) <= JUMP_S:
            self._offset_s += moved_s
        else:
            self._ahead_s += moved_s
            self._jumped_s = self._changed_s = now_s
            logger.warning(
                "the clock jumped by %+.0f s; budgets' windows do not follow it for now%s",
                moved_s,
                "" if self._ahead_s > 0 else ", and never backward: restart the router once the clock is right",
            )
        if self._ahead_s > JUMP_S and now_s - self._jumped_s >= CONFIRM_S:
            logger.warning("the clock has been %.0f s ahead for long; budgets' windows follow it now", self._ahead_s)
            self._offset_s += self._ahead_s
            self._ahead_s = 0.0
            self._changed_s = now_s
        return now_s + self._offset_s

    def steady_s(self) -> float:
        """For how long neither clock has jumped; at most the process's age."""
        self()
        return self._monotonic() - self._changed_s
