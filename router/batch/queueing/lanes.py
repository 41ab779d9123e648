"""Lanes of the queue: requests that the same models may answer and that need about as many slots on one replica."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, IntArray
from apportion.router.batch.queueing.line import Lane

# A lane is (models, slots): bit j of `models` stands for the engine of place j.


def lanes(possible: BoolArray, sequences: list[int]) -> list[Lane]:
    """The lane of each of N requests.

    Args:
        possible: (N, n_engines), that the request may go to, whatever is free, healthy or affordable.
        sequences: (N,), of each request.
    """
    packed = np.packbits(possible, axis=1, bitorder="little")
    # Whoever needs no more than a power of two may have room; of those who need more some will be left over.
    return [
        (int.from_bytes(row.tobytes(), "little"), 1 << (count.bit_length() - 1))
        for row, count in zip(packed, sequences, strict=True)
    ]


def bits(models: BoolArray) -> int:
    """Engines (n_engines,) as bits: bit j for that of place j."""
    return int.from_bytes(np.packbits(models, bitorder="little").tobytes(), "little")


def columns_of(lane: Any) -> int:
    """The models that requests of a lane may go to, as bits."""
    columns: int = lane[0]
    return columns


class SlotRoom:
    """The slots that are free at a moment.

    Args:
        free: (n_engines,), slots.
        room: (n_engines,), the most sequences that a request can start with now on one replica.
        capacity: (n_engines,), slots of replicas that work, used or not.
    """

    def __init__(self, free: IntArray, room: IntArray, capacity: IntArray) -> None:
        self._free: list[int] = free.tolist()
        self._room: list[int] = room.tolist()
        self._working = bits(capacity > 0)

    @property
    def free(self) -> float:
        """All of them."""
        return sum(self._free)

    def free_to(self, lanes: Collection[Any]) -> float:
        """Free slots that requests of these lanes could start on together."""
        columns = 0
        for mask, needed in lanes:
            if not mask & self._working:  # nobody is left who could answer: they are to be told
                return math.inf
            columns |= mask & self._with_room(needed)
        return sum(free for column, free in enumerate(self._free) if columns >> column & 1)

    def kept_for(self, lane: Any) -> bool:
        """Whether slots are free that may be kept until one replica has enough for the lane's requests."""
        mask, needed = lane
        return needed > 1 and bool(mask & self._with_room(1))

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
