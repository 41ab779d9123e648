"""Units a minute, spread evenly, and booked in advance. Reads no clock: the time is passed in."""

from __future__ import annotations

KEPT = 0.97  # of a rate, so that what is sent evenly arrives within it, whichever seconds it is counted in


class Pace:
    """Generic cell rate algorithm (ITU-T I.371), with bookings that can be corrected.

    A minute's limit may be enforced second by second, so that little may come at once: whatever is booked has to be
    paid for, but for `burst_s` of it, before more is.

    Args:
        per_minute: units; None: no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval_s = 0.0 if per_minute is None else 60.0 / (per_minute * KEPT)
        self._due_s = float("-inf")

    def wait_s(self, now_s: float, burst_s: float) -> float:
        """Until more may be sent."""
        return max(self._due_s - now_s - burst_s, 0.0)

    def book(self, at_s: float, units: float) -> None:
        """So many are sent then."""
        self._due_s = max(self._due_s, at_s) + units * self._interval_s

    def correct(self, units: float) -> None:
        """So many more were sent than booked, or fewer."""
        self._due_s += units * self._interval_s
