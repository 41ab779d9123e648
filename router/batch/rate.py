"""Rates of requests: a steady one, with bursts of a few seconds' worth. Reads no clock: the time is passed in."""

from __future__ import annotations

from collections.abc import Mapping


class RateLimiter:
    """Generic cell rate algorithm (ITU-T I.371), one cell a name.

    Args:
        per_minute: requests a minute by name; names that are absent have the limit `otherwise`, None: none.
        burst_s: so many seconds' worth may come at once, and one request in any case.
    """

    def __init__(
        self, per_minute: Mapping[str, float], *, otherwise: float | None = None, burst_s: float = 5.0
    ) -> None:
        self._burst_s = burst_s
        self._otherwise = otherwise
        self._due_s: dict[str, float] = {}
        self.per_minute = dict(per_minute)

    def take(self, name: str | None, now_s: float, count: int = 1) -> float | None:
        """Counts so many requests that come as one; None if they are within the rate, else the seconds to wait.

        They may come if one may, and the next one then waits until all are paid for.
        """
        per_minute = None if name is None else self.per_minute.get(name, self._otherwise)
        if name is None or per_minute is None:
            return None
        interval_s = 60.0 / per_minute
        due_s = max(self._due_s.get(name, now_s), now_s)
        wait_s = due_s - now_s - max(self._burst_s - interval_s, 0.0)
        if wait_s > 1e-9:
            return wait_s
        self._due_s[name] = due_s + count * interval_s
        return None
