"""Lanes of the queue: requests that the same models may answer, that need about as many slots on one replica, and that
the same limits hold for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, IntArray
from apportion.router.batch.concurrency import NO_LIMITS, LimitRoom, Needs
from apportion.router.batch.queueing.line import Lane

# A lane is (models, slots, needs): bit j of `models` stands for the engine of place j; needs are of limits.


def lanes(possible: BoolArray, sequences: list[int], needs: Sequence[Needs] | None = None) -> list[Lane]:
    """The lane of each of N requests.

    Args:
        possible: (N, n_engines), that the request may go to, whatever is free, healthy or affordable.
        sequences: (N,), of each request.
        needs: (N,), what each needs of limits on what is in flight; None: none holds for any.
    """
    packed = np.packbits(possible, axis=1, bitorder="little")
    # Whoever needs no more than a power of two may have room; of those who need more some will be left over.
    return [
        (int.from_bytes(row.tobytes(), "little"), 1 << (count.bit_length() - 1), need)
        for row, count, need in zip(packed, sequences, needs or [()] * len(sequences), strict=True)
    ]


def bits(models: BoolArray) -> int:
    """Engines (n_engines,) as bits: bit j for that of place j."""
    return int.from_bytes(np.packbits(models, bitorder="little").tobytes(), "little")


def wanted(lane: Any, limits: LimitRoom) -> int:
    """The models that requests of a lane would go to if they had slots, as bits: where no limit holds them back."""
    columns, _, needs = lane
    open_: int = columns & ~limits.blocked(needs) if needs else columns
    return open_


class SlotRoom:
    """The slots that are free at a moment.

    Args:
        free: (n_engines,), slots.
        room: (n_engines,), the most sequences that a request can start with now on one replica.
        capacity: (n_engines,), slots of replicas that work, used or not.
        limits: what those on what is in flight leave.
    """

    def __init__(self, free: IntArray, room: IntArray, capacity: IntArray, limits: LimitRoom = NO_LIMITS) -> None:
        self._limits = limits
        self._free: list[int] = free.tolist()
        self._room: list[int] = room.tolist()
        self._working = bits(capacity > 0)

    @property
    def free(self) -> float:
        """All of them."""
        return sum(self._free)

    def free_to(self, lanes: Collection[Any]) -> float:
        """Free slots that requests of these lanes could start on together."""
        columns, most = 0, 0.0
        for mask, needed, needs in lanes:
            if not mask & self._working:  # nobody is left who could answer: they are to be told
                return math.inf
            open_ = mask & self._with_room(needed)
            if needs:
                open_ &= ~self._limits.blocked(needs)
                most += self._limited(open_, needed, needs)
            else:
                most = math.inf
            columns |= open_
        return min(self._on(columns), most)

    def kept_for(self, lane: Any) -> bool:
        """Whether slots are free, or a limit has something left, that may be kept until it is enough for the lane's
        requests.
        """
        mask, needed, needs = lane
        return (needed > 1 or self._limits.is_part(needs)) and bool(mask & self._with_room(1))

    def _on(self, columns: int) -> int:
        return sum(free for column, free in enumerate(self._free) if columns >> column & 1)

    def _limited(self, columns: int, slots: int, needs: Needs) -> float:
        """Slots of these models that limits let requests of so many slots each take."""
        most = [
            self._on(columns & ~engines) + min(self._on(columns & engines), count * slots)
            for count, engines in self._limits.starts(needs)
        ]
        return min(most, default=math.inf)

    def _with_room(self, needed: int) -> int:
        return sum(1 << column for column, room in enumerate(self._room) if room >= needed)


class _AnyRoom:
    """Where nobody has to wait for anything."""

    free = math.inf

    def free_to(self, lanes: Collection[Any]) -> float:
        return math.inf

    def kept_for(self, lane: Any) -> bool:
        return False


ANY_ROOM = _AnyRoom()
