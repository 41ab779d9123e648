"""Slots and money of requests, taken together and given back together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray
from apportion.router.batch.availability import Availability
from apportion.router.batch.fleet import Fleet
from apportion.router.batch.messages import Decision, Done, EngineReplica, Held, RouteItem
from apportion.router.batch.policy import Policy
from apportion.router.batch.slots import UNBOUNDED
from apportion.router.batch.spending import Spending
from apportion.router.budget import Shortage
from apportion.router.budget.standing import Claim
from apportion.router.estimates import Estimates


@dataclass(frozen=True, slots=True)
class Wish:
    """What a decided request needs: slots of its model, and its worst case in money where there are limits."""

    item: RouteItem
    decision: Decision
    claim: Claim | None


class Reservations:
    """The one place where slots and money change hands; no request ever has the one without the other."""

    def __init__(self, fleet: Fleet, spending: Spending) -> None:
        self.fleet = fleet
        self.spending = spending

    def empty(self) -> Availability:
        """What there would be if nothing were in flight, without limits on money."""
        capacity = self.fleet.capacity()
        return Availability(capacity, capacity)

    async def look(
        self, items: Sequence[RouteItem], estimates: Estimates, policy: Policy, patient: BoolArray
    ) -> Availability:
        """What there is for a batch that is about to be planned.

        Args:
            patient: (N,), requests that have waited so long that room is made for them: slots are kept free until
                one replica has enough.

        Raises:
            LedgerError: the database does not answer; without it nothing may be spent.
        """
        budget = await self.spending.look(items, estimates, policy)
        room = np.where(patient[:, None], UNBOUNDED, self.fleet.room()[None, :])
        return Availability(self.fleet.free_slots(), self.fleet.capacity(), room, self.fleet.avoided(items), budget)

    async def take(self, wishes: Sequence[Wish]) -> list[EngineReplica | Shortage | None]:
        """Takes each request's slots, then its money; whoever gets no money gives the slots back.

        Returns:
            For each the replica that it goes to, the limit that has no room for it, or None if its slots went to
            another batch meanwhile.

        Raises:
            LedgerError: the database does not answer; nobody holds anything.
        """
        taken: list[EngineReplica | Shortage | None] = []
        taken += [self.fleet.seat(wish.item, wish.decision.model) for wish in wishes]
        seated = [row for row, replica in enumerate(taken) if replica is not None]
        claims = [claim for row in seated if (claim := wishes[row].claim) is not None]
        try:
            shortages = await self.spending.reserve(claims) if claims else [None] * len(seated)
        except BaseException:  # whatever it is, nobody is told of these seats
            for row in seated:
                self.fleet.release(wishes[row].item.id)
            raise
        for row, shortage in zip(seated, shortages, strict=True):
            if shortage is None:
                self.spending.plan(wishes[row].item.id, wishes[row].decision.cost_usd)
            else:
                self.fleet.release(wishes[row].item.id)
                taken[row] = shortage
        return taken

    def adopt(self, held: Held) -> None:
        """Takes over a request in flight that a router before this one had decided."""
        self.fleet.adopt(held)
        self.spending.plan(held.id, held.cost_usd)

    def settle(self, done: Done) -> None:
        """A dispatched request has ended: its slots are free, and what it cost is charged."""
        self.fleet.end(done)
        if done.ending.worked:
            told = done.cost_usd
            # What no answer can cost was said by an engine that is broken: as if it had said nothing.
            self.spending.settle(done.id, told if told is not None and 0 <= told < math.inf else None)
        else:
            self.spending.release(done.id)

    def release(self, request_id: str) -> None:
        """Gives back what a request holds, or a lost router may have reserved for it, that no engine has seen."""
        self.fleet.release(request_id)
        self.spending.release(request_id)
