"""Slots and dollars of requests in flight: reserved at planning, settled or released at the end.

Knows replicas only as names with a number of slots; knows no clock, no network and no batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one request holds while it is in flight."""

    request_id: str
    model: int
    replica: str
    sequences: int
    cost_usd: float


@dataclass(slots=True)
class _Replica:
    model: int
    slots: int
    used: int = 0
    present: bool = True


class Ledger:
    """Owns every model's slots and the money that is spent or reserved.

    A replica that leaves keeps its reservations until they are settled or released; its slots are gone at once.
    """

    def __init__(self, n_models: int) -> None:
        self._n_models = n_models
        self._replicas: dict[str, _Replica] = {}
        self._reservations: dict[str, Reservation] = {}
        self.spent_usd = 0.0

    @property
    def reserved_usd(self) -> float:
        """Planned cost in USD of the requests in flight."""
        return sum(reservation.cost_usd for reservation in self._reservations.values())

    @property
    def in_flight(self) -> int:
        return len(self._reservations)

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

    def reserve(self, request_id: str, model: int, sequences: int, cost_usd: float) -> str | None:
        """Takes slots on the model's least used replica and sets the planned cost aside.

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
        if not candidates or request_id in self._reservations:
            return None
        name, chosen = max(candidates, key=lambda pair: pair[1].slots - pair[1].used)
        held = min(sequences, chosen.slots)
        chosen.used += held
        self._reservations[request_id] = Reservation(request_id, model, name, held, cost_usd)
        return name

    def settle(self, request_id: str, cost_usd: float | None) -> None:
        """Ends a request that an engine worked on; None: cost unknown, so the reserved amount is charged."""
        reservation = self._free(request_id)
        if reservation is not None:
            self.spent_usd += reservation.cost_usd if cost_usd is None else cost_usd

    def release(self, request_id: str) -> None:
        """Ends a request that no engine worked on."""
        self._free(request_id)

    def replica_of(self, request_id: str) -> str | None:
        """The replica that a request in flight sits on."""
        reservation = self._reservations.get(request_id)
        return None if reservation is None else reservation.replica

    def _present(self) -> list[_Replica]:
        return [replica for replica in self._replicas.values() if replica.present]

    def _free(self, request_id: str) -> Reservation | None:
        reservation = self._reservations.pop(request_id, None)
        if reservation is not None:
            self._replicas[reservation.replica].used -= reservation.sequences
            self._forget_if_unused(reservation.replica)
        return reservation

    def _forget_if_unused(self, name: str) -> None:
        replica = self._replicas[name]
        if not replica.present and replica.used == 0:
            del self._replicas[name]
