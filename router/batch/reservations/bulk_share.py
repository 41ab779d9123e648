"""What bulk may have of the slots: what is free beyond a reserve, and beyond what interactive requests take first.

An engine does not interrupt what it has begun, so that interactive requests find slots only where some were kept free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from apportion.router.arrays import IntArray

# So many slots free, times the square root of all, as requests that come by chance vary by: measured from 64 slots on.
RESERVE = 1.5


def default_reserve(slots: int) -> int:
    """Slots of a model that are kept free where nobody says how many."""
    return math.ceil(RESERVE * math.sqrt(slots))


@dataclass(frozen=True, slots=True)
class BulkRule:
    """How much of each model bulk leaves free.

    Args:
        reserve: slots by model; the others keep `default_reserve`.
        least_reserve: what is kept free of each model at least when jobs are behind their deadlines.
        max_share: of a model's slots that bulk may hold.
        only: nothing but bulk is served, and nothing is kept free.
    """

    reserve: Mapping[str, int] = field(default_factory=dict)
    least_reserve: int = 0
    max_share: float = 1.0
    only: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What interactive requests are about to need.

    Args:
        deciding: requests that are being planned, or will be at once.
        models: columns, as bits, of models that requests wait for.
    """

    deciding: int = 0
    models: int = 0


class BulkShare:
    """Reckons what bulk may take now.

    Args:
        models: names in the order of every array.

    Attributes:
        demand: what interactive requests are about to need.
        haste: 0: the reserve is kept whole; 1: only the least of it, since a job is behind its deadline.
    """

    def __init__(self, models: Sequence[str], rule: BulkRule = BulkRule()) -> None:
        self._models = tuple(models)
        self._rule = rule
        self.demand: Callable[[], Demand] = Demand
        self.haste = 0.0

    def reserve(self, capacity: IntArray) -> IntArray:
        """(M,) slots that bulk leaves free; of a model that has any, one at least is left to it."""
        if self._rule.only:
            return np.zeros_like(capacity)
        given = self._rule.reserve
        whole = np.array(
            [
                given.get(name, default_reserve(slots))
                for name, slots in zip(self._models, capacity.tolist(), strict=True)
            ]
        )
        least = np.minimum(self._rule.least_reserve, whole)
        kept = np.ceil(least + (1 - self.haste) * (whole - least)).astype(np.int64)
        reserve: IntArray = np.clip(kept, 0, np.maximum(capacity - 1, 0))
        return reserve

    def most(self, capacity: IntArray) -> IntArray:
        """(M,) slots that bulk can have while nobody else needs any."""
        shared = np.where(capacity > 0, np.maximum(np.floor(self._rule.max_share * capacity), 1), 0).astype(np.int64)
        most: IntArray = np.minimum(capacity - self.reserve(capacity), shared)
        return most

    def free(self, capacity: IntArray, free: IntArray, used: IntArray) -> IntArray:
        """(M,) slots that bulk may take now.

        Args:
            capacity: (M,), slots that work.
            free: (M,), of these, those that nobody holds.
            used: (M,), slots that bulk holds.
        """
        demand = self.demand()
        left = np.minimum(free - self.reserve(capacity) - demand.deciding, self.most(capacity) - used)
        wanted = np.array([bool(demand.models >> column & 1) for column in range(len(self._models))])
        return np.where(wanted, 0, np.maximum(left, 0))
