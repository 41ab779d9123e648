"""How many sequences a replica has run at once while it answered a request: what its time depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Meter:
    """A replica's sequences, and their sum over the time until `seen_s`."""

    seen_s: float
    running: int = 0
    sum_s: float = 0.0

    def at(self, now_s: float) -> float:
        """The sum until now."""
        self.sum_s += self.running * (now_s - self.seen_s)
        self.seen_s = now_s
        return self.sum_s


@dataclass(frozen=True, slots=True)
class _Stay:
    meter: _Meter
    replica: str
    sequences: int
    began_s: float
    sum_s: float


class Occupancy:
    """Follows the requests in flight.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meters: dict[str, _Meter] = {}
        self._stays: dict[str, _Stay] = {}

    def begin(self, request_id: str, replica: str, sequences: int) -> None:
        """The request goes to the replica; one that is there already is left alone."""
        if request_id in self._stays:
            return
        now_s = self._clock()
        meter = self._meters.setdefault(replica, _Meter(now_s))
        self._stays[request_id] = _Stay(meter, replica, sequences, now_s, meter.at(now_s))
        meter.running += sequences

    def end(self, request_id: str) -> None:
        """The request has ended; one that is not known is left alone."""
        stay = self._stays.pop(request_id, None)
        if stay is not None:
            stay.meter.at(self._clock())
            stay.meter.running -= stay.sequences
            if not stay.meter.running:
                del self._meters[stay.replica]

    def mean(self, request_id: str) -> float:
        """Sequences on the replica of a request in flight, its own too, on average since it began; 0: it is on none."""
        stay = self._stays.get(request_id)
        if stay is None:
            return 0.0
        now_s, meter = self._clock(), stay.meter
        if now_s <= stay.began_s:
            return float(meter.running)
        return (meter.at(now_s) - stay.sum_s) / (now_s - stay.began_s)
