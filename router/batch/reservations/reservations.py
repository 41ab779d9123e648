"""Slots and money of requests, taken together and given back together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from apportion.router.arrays import BoolArray
from apportion.router.batch.messages import Decision, Done, EngineReplica, Held, RouteItem
from apportion.router.batch.money.savings import Savings
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.policy import Policy
from apportion.router.batch.queueing.lanes import SlotRoom
from apportion.router.batch.reservations.availability import Availability
from apportion.router.batch.reservations.conversations import Conversations
from apportion.router.batch.reservations.fleet import Fleet
from apportion.router.batch.reservations.slots import UNBOUNDED
from apportion.router.batch.reservations.unsettled import Unsettled
from apportion.router.budget import Shortage
from apportion.router.budget.standing import Claim
from apportion.router.estimates import Estimates


@dataclass(frozen=True, slots=True)
class Wish:
    """What a decided request needs.

    Args:
        item: the request.
        decision: names the model whose slots it needs.
        claims: its worst case in money, and that of a cascade's second stage; none where there are no limits, or where
            they were set aside before.
        prompt_tokens: of its prompt on that model; 0: nobody has counted them.
    """

    item: RouteItem
    decision: Decision
    claims: Sequence[Claim] = ()
    prompt_tokens: float = 0.0


class Reservations:
    """The one place where slots and money change hands; and which remembers where conversations went.

    A request takes both or nothing. It gives back its slots when it has ended, and its money when it is known what it
    cost: where the ingress does not know, its engine is asked, and where that does not say in time, the worst case is
    charged.

    Args:
        clock: seconds of a monotonic clock.
        on_settled: is told what a request counts for, in nano-USD, and whether its engine has said so; no engine has
            seen a request that was told nothing of `settle` before.
    """

    def __init__(
        self,
        fleet: Fleet,
        spending: Spending,
        conversations: Conversations,
        clock: Callable[[], float],
        on_settled: Callable[[str, int, bool], None] = lambda *_: None,
    ) -> None:
        self.fleet = fleet
        self.spending = spending
        self.conversations = conversations
        self.savings = Savings()
        self._unsettled = Unsettled(clock)
        self._on_settled = on_settled

    def empty(self, items: Sequence[RouteItem], policy: Policy) -> Availability:
        """What there would be for a batch if nothing were in flight, without limits on money."""
        capacity = self.fleet.capacity()
        return Availability(
            capacity,
            capacity[policy.engine_of],
            stays=self.conversations.look(items, policy.names),
            savings=self.savings,
            asleep=self.fleet.asleep()[policy.engine_of],
            limits=self.fleet.concurrency.empty(),
        )

    def room(self, *, bulk: bool = False) -> SlotRoom:
        """The slots that are free now, for the queue to know who can start."""
        fleet = self.fleet
        return SlotRoom(fleet.free_slots(bulk=bulk), fleet.room(bulk=bulk), fleet.capacity(), fleet.concurrency.room())

    async def look(
        self, items: Sequence[RouteItem], estimates: Estimates, policy: Policy, patient: BoolArray
    ) -> Availability:
        """What there is for a batch that is about to be planned, all of it interactive or all of it bulk.

        Args:
            patient: (N,), requests that have waited so long that room is made for them: slots are kept free until
                one replica has enough.

        Raises:
            LedgerError: the database does not answer; without it nothing may be spent.
        """
        budget = await self.spending.look(items, estimates, policy)
        fleet, bulk = self.fleet, items[0].bulk
        of, avoided, patient = policy.engine_of, fleet.avoided(items), patient & (not bulk)
        return Availability(
            fleet.free_slots(bulk=bulk),
            fleet.capacity()[of],
            np.where(patient[:, None], UNBOUNDED, fleet.room(bulk=bulk)[of]),
            None if avoided is None else avoided[:, of],
            budget,
            self.conversations.look(items, policy.names),
            self.savings,
            fleet.running_next()[of],
            fleet.asleep()[of],
            fleet.concurrency.left(patient),
        )

    async def take(self, wishes: Sequence[Wish]) -> list[EngineReplica | Shortage | None]:
        """Takes each request's slots, then its money; whoever gets no money gives the slots back.

        Returns:
            For each the replica that it goes to, the limit on money that has no room for it, or None if its slots, or
            what a limit on what is in flight had left, went to another batch meanwhile.

        Raises:
            LedgerError: the database does not answer; nobody holds anything.
        """
        taken: list[EngineReplica | Shortage | None] = []
        taken += [self._seat(wish) for wish in wishes]
        seated = [row for row, replica in enumerate(taken) if replica is not None]
        claims = [claim for row in seated for claim in wishes[row].claims]
        try:
            told = iter(await self.spending.reserve(claims) if claims else ())
        except BaseException:  # whatever it is, nobody is told of these seats
            for row in seated:
                self.fleet.release(wishes[row].item.id)
            raise
        for row in seated:
            wish, replica = wishes[row], taken[row]
            shortage = self._all_or_none(wish.claims, list(islice(told, len(wish.claims))))
            if shortage is not None:
                self.fleet.release(wish.item.id)
                taken[row] = shortage
            elif isinstance(replica, EngineReplica):
                self.spending.plan(wish.item.id, wish.decision.cost_usd)
                self.conversations.remember(
                    wish.item, wish.decision.turn, replica.model, replica.id, wish.prompt_tokens
                )
        return taken

    def _all_or_none(self, claims: Sequence[Claim], told: Sequence[Shortage | None]) -> Shortage | None:
        """What one of a request's claims is short of; what another of them got is given back then."""
        short = next((one for one in told if one is not None), None)
        if short is not None:
            for claim, shortage in zip(claims, told, strict=True):
                if shortage is None:
                    self.spending.release(claim.id)
        return short

    def _seat(self, wish: Wish) -> EngineReplica | None:
        last = self.conversations.last(wish.item)
        decision, rather = wish.decision, None if last is None else last.replica
        return self.fleet.seat(wish.item, decision.model, rather, decision.most_tokens)

    def adopt(self, held: Held) -> None:
        """Takes over a request in flight that a router before this one had decided."""
        self.fleet.adopt(held)
        self.spending.plan(held.id, held.cost_usd, bulk=held.account.job is not None)

    def settle(self, done: Done) -> None:
        """A dispatched request has ended: its slots are free, and what it cost is charged as soon as that is known."""
        replica = self.fleet.end(done)
        if done.releases is not None:
            self.release(done.releases)
        if not done.ending.worked:
            self._release_money(done.id)
        elif done.cost_usd is not None and _is_cost(done.cost_usd):
            self._unsettled.take(done.id)
            self._charge(done.id, done.cost_usd)
        elif replica is not None:
            self._unsettled.put(done.id, replica)
        elif done.id not in self._unsettled:
            self._charge(done.id, None)

    def asked_of(self, replica: str) -> tuple[str, ...]:
        """Requests that have ended on this replica and whose cost only it knows."""
        return self._unsettled.asked_of(replica)

    def told(self, replica: str, costs_usd: Mapping[str, float]) -> None:
        """A replica says what requests have cost; what it was not asked for, or no more, changes nothing."""
        for request_id in self._unsettled.asked_of(replica):
            cost_usd = costs_usd.get(request_id)
            if cost_usd is not None and _is_cost(cost_usd):
                self._unsettled.take(request_id)
                self._charge(request_id, cost_usd)

    def charge_overdue(self) -> None:
        """Charges the worst case of what engines have not told in time."""
        for request_id in self._unsettled.take_overdue():
            self._charge(request_id, None)

    def release(self, request_id: str) -> None:
        """Gives back what a request holds, or a lost router may have reserved for it, that no engine has seen."""
        self.fleet.release(request_id)
        self._release_money(request_id)

    def drop(self, decision: Decision) -> None:
        """Gives back what a decided request holds that no engine has seen, for either stage of a cascade."""
        self.release(decision.id)
        if decision.second is not None:
            self.release(decision.second.id)

    def _charge(self, request_id: str, cost_usd: float | None) -> None:
        self._on_settled(request_id, self.spending.settle(request_id, cost_usd), cost_usd is not None)

    def _release_money(self, request_id: str) -> None:
        if request_id not in self._unsettled:  # else an earlier end of it, which counts, says that an engine worked
            self.spending.release(request_id)
            self._on_settled(request_id, 0, True)


def _is_cost(told_usd: float) -> bool:
    """Whether an answer can cost this; else it was said by an engine that is broken, as if it had said nothing."""
    return 0 <= told_usd < math.inf
