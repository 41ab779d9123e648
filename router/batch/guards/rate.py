"""Rates of requests: a steady one, with bursts of a few seconds' worth. Reads no clock: the time is passed in."""

from __future__ import annotations

from collections.abc import Mapping

from apportion.router.errors import RateLimitError


class RateLimiter:
    """Generic cell rate algorithm (ITU-T I.371), one cell a name.

    Args:
        per_minute: requests a minute by name; names that are absent have the limit `otherwise`, None: none.
        burst_s: so many seconds' worth may come at once, and one request in any case.
        slack: so many times the rate pass, and what that is above one may come at once besides.
    """

    def __init__(
        self,
        per_minute: Mapping[str, float],
        *,
        otherwise: float | None = None,
        burst_s: float = 5.0,
        slack: float = 1.0,
    ) -> None:
        self._burst_s = burst_s
        self._otherwise = otherwise
        self._slack = slack
        self._due_s: dict[str, float] = {}
        self.per_minute = per_minute

    def check(self, name: str, now_s: float, may: str, count: int = 1) -> None:
        """As `take`.

        Args:
            may: who may do what, such as "this API key may send".

        Raises:
            RateLimitError: there are too many; tells how many may be, and when to try again.
        """
        per_minute = self.per_minute.get(name, self._otherwise)
        wait_s = self.take(name, now_s, count)
        if per_minute is not None and wait_s is not None:
            raise RateLimitError(
                f"{may} {per_minute:g} requests a minute; try again in {wait_s:.1f} s", retry_after_s=wait_s
            )

    def take(self, name: str | None, now_s: float, count: int = 1) -> float | None:
        """Counts so many requests that come as one; None if they are within the rate, else the seconds to wait.

        They may come if one may, and the next one then waits until all are paid for.
        """
        per_minute = None if name is None else self.per_minute.get(name, self._otherwise)
        if name is None or per_minute is None:
            return None
        interval_s = 60.0 / (per_minute * self._slack)
        due_s = max(self._due_s.get(name, now_s), now_s)
        wait_s = due_s - now_s - max(self._burst_s - interval_s, 0.0) - (self._slack - 1) * interval_s
        if wait_s > 1e-9:
            return wait_s
        self._due_s[name] = due_s + count * interval_s
        return None
