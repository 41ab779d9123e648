"""Slots of requests in flight: reserved at planning, given back at the end.

Knows replicas only as names with a number of slots; knows no clock, no network, no batch and no money.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from apportion.router.arrays import IntArray

UNBOUNDED = int(np.iinfo(np.int32).max)


def needed_slots(sequences: int, slots: int) -> int:
    """Slots that must be free for a request to start on a replica with `slots`: its sequences', at most a half."""
    return min(sequences, -(-slots // 2))


@dataclass(frozen=True, slots=True)
class Seat:
    """What one request holds while it is in flight."""

    request_id: str
    model: int
    replica: str
    sequences: int
    bulk: bool = False


@dataclass(slots=True)
class _Replica:
    """`usable` are its slots that may be taken, used or not; `free` those of them that nobody has taken."""

    model: int
    slots: int
    used: int = 0
    present: bool = True
    most: int | None = None
    paused: bool = False
    usable: int = field(init=False)
    free: int = field(init=False)
    on_trial: bool = field(init=False)  # restricted and idle: the next request shows what it is worth

    def __post_init__(self) -> None:
        self.count()

    def count(self) -> None:
        """To be called after each change: far more often somebody looks."""
        self.usable = self.slots if self.most is None else min(self.slots, self.most)
        self.free = 0 if self.paused else max(0, self.usable - self.used)
        self.on_trial = self.most is not None and self.used == 0

    def has_room_for(self, sequences: int) -> bool:
        """Whether so many may start here: they have slots, or most of them do and the engine queues the rest."""
        return self.free >= sequences or (self.usable > 0 and needed_slots(sequences, self.usable) <= self.free)


class SlotLedger:
    """Owns every model's slots.

    A replica that leaves keeps its seats until they are released; its slots are gone at once.
    """

    def __init__(self, n_models: int) -> None:
        self._n_models = n_models
        self._replicas: dict[str, _Replica] = {}
        self._of_model: list[dict[str, _Replica]] = [{} for _ in range(n_models)]
        self._seats: dict[str, Seat] = {}
        self._bulk = np.zeros(n_models, dtype=np.int64)

    @property
    def in_flight(self) -> int:
        return len(self._seats)

    def join(self, replica: str, model: int, slots: int) -> None:
        """A replica is there (again) with this many slots."""
        known = self._replicas.get(replica)
        if known is None:
            self._add(replica, _Replica(model, slots))
        else:
            known.slots, known.present = slots, True
            known.count()

    def leave(self, replica: str) -> None:
        """A replica takes no more requests."""
        known = self._replicas.get(replica)
        if known is not None:
            known.present = False
            self._forget_if_unused(replica)

    def restrict(self, replica: str, most: int | None) -> None:
        """Lets a replica have at most so many requests in flight for now; None: all of its slots."""
        known = self._replicas.get(replica)
        if known is not None:
            known.most = most
            known.count()

    def pause(self, replica: str, paused: bool) -> None:
        """Lets a replica have no further request for now, or again; its slots are there, and can be waited for."""
        known = self._replicas.get(replica)
        if known is not None:
            known.paused = paused
            known.count()

    def capacity(self) -> IntArray:
        """Slots of each model's present replicas, used or not: (n_models,)."""
        total = np.zeros(self._n_models, dtype=np.int64)
        for replica in self._present():
            total[replica.model] += replica.usable
        return total

    def free_slots(self) -> IntArray:
        """Free slots of each model's present replicas: (n_models,)."""
        free = np.zeros(self._n_models, dtype=np.int64)
        for replica in self._present():
            free[replica.model] += replica.free
        return free

    def used_next(self) -> IntArray:
        """Slots that are taken on the replica of each model that has most of them free: (n_models,)."""
        used, most = np.zeros(self._n_models, dtype=np.int64), np.full(self._n_models, -1)
        for replica in self._present():
            if replica.free > most[replica.model]:
                used[replica.model], most[replica.model] = replica.used, replica.free
        return used

    def used_by_bulk(self) -> IntArray:
        """Slots of each model that bulk holds: (n_models,)."""
        return self._bulk.copy()

    def room(self) -> IntArray:
        """The most sequences that a request can start with now on one replica of each model: (n_models,)."""
        most = np.zeros(self._n_models, dtype=np.int64)
        for replica in self._present():
            here = UNBOUNDED if replica.has_room_for(UNBOUNDED) else replica.free
            most[replica.model] = max(most[replica.model], here)
        return most

    def reserve(
        self,
        request_id: str,
        model: int,
        sequences: int,
        avoid: Collection[str] = frozenset(),
        rather: str | None = None,
        *,
        bulk: bool = False,
    ) -> str | None:
        """Takes slots on the model's least used replica, but on none that is to be avoided.

        The replica that the request would rather have goes before that one, unless it has less than half as much free.

        A restricted replica that has nothing to do goes first: else it would never show that it works again where
        the others have room.

        Returns:
            The replica's name, or None if the model has no replica with that many free slots. A request that needs
            more than half of a replica's slots starts where that half is free: the engine queues the rest.
        """
        if request_id in self._seats:
            return None
        chosen, best, on_trial = None, 0, False
        for name, replica in self._of_model[model].items():
            free = replica.free * (2 if name == rather else 1)
            if free <= best and not replica.on_trial:
                continue
            if not replica.present or name in avoid or not replica.has_room_for(sequences):
                continue
            if (replica.on_trial, free) > (on_trial, best):
                chosen, best, on_trial = name, free, replica.on_trial
        if chosen is not None:
            self._seat(request_id, chosen, min(sequences, self._replicas[chosen].free), bulk=bulk)
        return chosen

    def adopt(self, request_id: str, model: int, sequences: int, replica: str, *, bulk: bool = False) -> None:
        """Seats a request that is in flight already, on a replica that may not have joined yet."""
        if request_id not in self._seats:
            if replica not in self._replicas:
                self._add(replica, _Replica(model, 0, present=False))
            self._seat(request_id, replica, sequences, bulk=bulk)

    def release(self, request_id: str) -> None:
        """Ends a request; one that is unknown or has ended is left alone."""
        seat = self._seats.pop(request_id, None)
        if seat is not None:
            replica = self._replicas[seat.replica]
            replica.used -= seat.sequences
            self._bulk[seat.model] -= seat.sequences * seat.bulk
            replica.count()
            self._forget_if_unused(seat.replica)

    def seat_of(self, request_id: str) -> Seat | None:
        """What a request in flight holds."""
        return self._seats.get(request_id)

    def replicas_of(self, model: int) -> list[str]:
        """Present replicas of a model that may be used."""
        return [name for name, one in self._of_model[model].items() if one.present and one.usable > 0]

    def _add(self, name: str, replica: _Replica) -> None:
        self._replicas[name] = self._of_model[replica.model][name] = replica

    def _seat(self, request_id: str, replica: str, sequences: int, *, bulk: bool) -> None:
        known = self._replicas[replica]
        known.used += sequences
        known.count()
        self._bulk[known.model] += sequences * bulk
        self._seats[request_id] = Seat(request_id, known.model, replica, sequences, bulk)

    def _present(self) -> list[_Replica]:
        return [replica for replica in self._replicas.values() if replica.present]

    def _forget_if_unused(self, name: str) -> None:
        replica = self._replicas[name]
        if not replica.present and replica.used == 0:
            del self._replicas[name], self._of_model[replica.model][name]
