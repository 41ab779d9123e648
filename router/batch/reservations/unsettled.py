"""Requests that have ended while only their engine knows what they have cost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, takewhile

WORD_S = 5.0  # the engine's word is waited for so long; its heartbeat comes every second
MAX_ASKED = 1_000  # in the answer to one heartbeat


class Unsettled:
    """Whom to ask for which request's cost.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}  # replica and time of the end, in the order of these times
        self._of_replica: dict[str, dict[str, None]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._held

    def put(self, request_id: str, replica: str) -> None:
        """The request has ended, and the replica may have worked on it."""
        self._held[request_id] = replica, self._clock()
        self._of_replica.setdefault(replica, {})[request_id] = None

    def asked_of(self, replica: str) -> tuple[str, ...]:
        """Requests whose cost this replica knows."""
        return tuple(islice(self._of_replica.get(replica, ()), MAX_ASKED))

    def take(self, request_id: str) -> bool:
        """Whether the request was unsettled; it is not from now on."""
        replica, _ = self._held.pop(request_id, (None, 0.0))
        if replica is None:
            return False
        self._of_replica[replica].pop(request_id)
        if not self._of_replica[replica]:
            del self._of_replica[replica]
        return True

    def take_overdue(self) -> list[str]:
        """Requests whose engines have not said in time; they are unsettled no more."""
        latest_s = self._clock() - WORD_S
        overdue = [one for one, _ in takewhile(lambda held: held[1][1] < latest_s, self._held.items())]
        for request_id in overdue:
            self.take(request_id)
        return overdue
