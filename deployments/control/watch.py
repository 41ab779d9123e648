"""Whether calls end: a part that hangs is to be replaced, and only itself can tell a long wait from no work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from apportion.router.errors import UnavailableError

# Serve looks every CHECK_PERIOD_S and replaces a replica after three failures in a row: one whose process has stopped
# after 3 x (CHECK_TIMEOUT_S + CHECK_PERIOD_S) = 36 s at the latest, one with a call that hangs HANGING_S later.
CHECK_PERIOD_S = 2.0
CHECK_TIMEOUT_S = 10.0
HANGING_S = 30.0


class Watch:
    """Knows the calls that are being worked on, in whatever threads.

    Args:
        name: of the part, in errors.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._began_s: dict[object, float] = {}

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """One call, for as long as the context is open."""
        mark = object()
        self._began_s[mark] = self._clock()
        try:
            yield
        finally:
            del self._began_s[mark]

    def check(self) -> None:
        """Raises: UnavailableError: a call does not end."""
        longest_s = self._clock() - min(self._began_s.copy().values(), default=self._clock())
        if longest_s > HANGING_S:
            raise UnavailableError(f"a call of the {self._name} has not ended for {longest_s:.0f} s")
