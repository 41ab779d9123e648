"""Slots of requests in flight: reserved at planning, given back at the end.

Knows replicas only as names with a number of slots; knows no clock, no network, no batch and no money.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Seat:
    """What one request holds while it is in flight."""

    request_id: str
    model: int
    replica: str
    sequences: int


@dataclass(slots=True)
class _Replica:
    model: int
    slots: int
    used: int = 0
    present: bool = True


class SlotLedger:
    """Owns every model's slots.

    A replica that leaves keeps its seats until they are released; its slots are gone at once.
    """

    def __init__(self, n_models: int) -> None:
        self._n_models = n_models
        self._replicas: dict[str, _Replica] = {}
        self._seats: dict[str, Seat] = {}

    @property
    def in_flight(self) -> int:
        return len(self._seats)

    def join(self, replica: str, model: int, slots: int) -> None:
        """A replica is there (again) with this many slots."""
        known = self._replicas.get(replica)
        if known is None:
            self._replicas[replica] = _Replica(model, slots)
        else:
            known.slots, known.present = slots, True

    def leave(self, replica: str) -> None:
        """A replica takes no more requests."""
        known = self._replicas.get(replica)
        if known is not None:
            known.present = False
            self._forget_if_unused(replica)

    def capacity(self) -> NDArray[np.int64]:
        """Slots of each model's present replicas, used or not: (n_models,)."""
        total = np.zeros(self._n_models, dtype=np.int64)
        for replica in self._present():
            total[replica.model] += replica.slots
        return total

    def free_slots(self) -> NDArray[np.int64]:
        """Free slots of each model's present replicas: (n_models,)."""
        free = np.zeros(self._n_models, dtype=np.int64)
        for replica in self._present():
            free[replica.model] += max(0, replica.slots - replica.used)
        return free

    def reserve(self, request_id: str, model: int, sequences: int) -> str | None:
        """Takes slots on the model's least used replica.

        Returns:
            The replica's name, or None if the model has no replica with that many free slots. A request with
            more sequences than any replica has slots gets a replica that is wholly free: the engine queues.
        """
        candidates = [
            (name, replica)
            for name, replica in self._replicas.items()
            if replica.present
            and replica.model == model
            and replica.used + min(sequences, replica.slots) <= replica.slots
        ]
        if not candidates or request_id in self._seats:
            return None
        name, chosen = max(candidates, key=lambda pair: pair[1].slots - pair[1].used)
        held = min(sequences, chosen.slots)
        chosen.used += held
        self._seats[request_id] = Seat(request_id, model, name, held)
        return name

    def release(self, request_id: str) -> None:
        """Ends a request; one that is unknown or has ended is left alone."""
        seat = self._seats.pop(request_id, None)
        if seat is not None:
            self._replicas[seat.replica].used -= seat.sequences
            self._forget_if_unused(seat.replica)

    def replica_of(self, request_id: str) -> str | None:
        """The replica that a request in flight sits on."""
        seat = self._seats.get(request_id)
        return None if seat is None else seat.replica

    def _present(self) -> list[_Replica]:
        return [replica for replica in self._replicas.values() if replica.present]

    def _forget_if_unused(self, name: str) -> None:
        replica = self._replicas[name]
        if not replica.present and replica.used == 0:
            del self._replicas[name]
