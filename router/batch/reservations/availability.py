"""What a batch may take: slots, models, money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, IntArray
from apportion.router.batch.concurrency import LimitsLeft
from apportion.router.batch.money.batch_budget import BatchBudget
from apportion.router.batch.money.savings import Savings
from apportion.router.batch.reservations.conversations import Stays
from apportion.router.budget.standing import Claim


@dataclass(frozen=True)
class Availability:
    """What there is for N requests at the moment of their planning.

    Args:
        free_slots: (n_engines,), what may be taken now.
        room: (N, M), the most sequences that the request may have to start on a replica of the model now; None: any.
        capacity: (M,), slots of each column's replicas that work; a model with none may not answer.
        avoided: (N, M), models that have failed a request; None: no request has failed.
        budget: what the limits on money leave each request, in their order; None: there are no limits.
        stays: where the requests' sessions were last; None: no request has one.
        savings: what requests before these have left; None: nothing, as for what is planned by itself.
        running: (M,), sequences on the replica of each model that a request would go to; None: none.
        asleep: (M,), models that have no replica, and get one when it is asked for; None: there are none.
        limits: how those on what is in flight stand; None: there are none.
    """

    free_slots: IntArray
    capacity: IntArray
    room: IntArray | None = None
    avoided: BoolArray | None = None
    budget: BatchBudget | None = None
    stays: Stays | None = None
    savings: Savings | None = None
    running: IntArray | None = None
    asleep: BoolArray | None = None
    limits: LimitsLeft | None = None

    def healthy(self, n_requests: int) -> BoolArray:
        """(N, M): models that have a replica for the request."""
        healthy: BoolArray = np.tile(self.capacity > 0, (n_requests, 1))
        return healthy if self.avoided is None else healthy & ~self.avoided

    def may_wake(self, n_requests: int) -> BoolArray:
        """(N, M): models that are asleep and have not failed the request."""
        asleep = np.zeros(len(self.capacity), dtype=bool) if self.asleep is None else self.asleep
        may: BoolArray = np.tile(asleep, (n_requests, 1))
        return may if self.avoided is None else may & ~self.avoided

    def claims(self, row: int, columns: Mapping[str, int]) -> list[Claim]:
        """What the request sets aside to go to the models of these columns, each under a name; nothing without limits.

        Args:
            columns: by the name.
        """
        if self.budget is None:
            return []
        return [replace(self.budget.claim(row, column), id=name) for name, column in columns.items()]
