"""Requests that wait: for their batch, for a slot, or for money."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from apportion.router.batch.messages import Refusal, RouteItem, Told, Verdict
from apportion.router.batch.policy import Policy
from apportion.router.batch.queueing.delay import DelayQueue
from apportion.router.batch.queueing.lanes import ANY_ROOM, bits, wanted
from apportion.router.batch.queueing.line import Lane, Place
from apportion.router.batch.queueing.queue import BatchQueue, Room
from apportion.router.batch.reservations.bulk_share import Demand
from apportion.router.batch.reservations.reservations import Reservations
from apportion.router.batch.scheduling.decider import Decider
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.batch.scheduling.preview import Preview
from apportion.router.batch.scheduling.second_stage import SecondStageDecider
from apportion.router.batch.scheduling.waking import WakeQueue
from apportion.router.errors import ApportionError, BudgetExhaustedError, OverloadedError
from apportion.router.unpriced import Unpriced

FULL_HOLDS_S = 0.05  # a full queue refuses an account's next requests too, for about as long as a batch takes


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of batches and of waiting.

    Args:
        max_batch_size: most requests of a batch.
        max_wait_s: a batch starts even while another is planned, if its oldest new request has waited this long.
        max_queue: most requests that wait for a slot, and again that wait for money.
        aging_s: waiting this long counts as one more of priority.
        longest_request_s: bounds every request.
        bulk_price_factor: times a model's price is what a row of a job costs on it.
    """

    max_batch_size: int
    max_wait_s: float
    max_queue: int
    aging_s: float
    longest_request_s: float
    bulk_price_factor: float = 1.0


class Scheduler:
    """Owns the queues: collects batches for the decider, and is the desk that hears what became of them.

    Rows of jobs wait in a queue of their own, whose batches get what interactive requests leave. Second stages of
    cascades have one in which nobody waits for a slot.

    Args:
        policy: by which batches are planned until another is set.
        tell: takes a request's verdict.
        clock: seconds of a monotonic clock.
        second_stages: decides those of cascades.
    """

    def __init__(
        self,
        policy: Policy,
        decider: Decider,
        reservations: Reservations,
        limits: BatchLimits,
        tell: Callable[[Entry, Told], None],
        clock: Callable[[], float],
        preview: Preview,
        second_stages: SecondStageDecider,
    ) -> None:
        self.policy = policy
        self._decider = decider
        self._second_stages = second_stages
        self._preview = preview
        self._reservations = reservations
        self._limits = limits
        self._tell_verdict = tell
        self._clock = clock
        self._queue = self._new_queue(bulk=False)
        self._bulk = self._new_queue(bulk=True)
        self._second = self._queue_of(self._plan_second, lambda: ANY_ROOM)
        reservations.fleet.bulk.demand = self._demand
        self._unfunded: DelayQueue[Entry] = DelayQueue(self.submit, places=limits.max_queue)
        self._sleeping = WakeQueue(self.submit, self._not_woken, places=limits.max_queue)

    @property
    def waiting(self) -> int:
        """Interactive requests that wait for a plan or a slot."""
        return len(self._queue)

    @property
    def waiting_bulk(self) -> int:
        """Rows of jobs that do."""
        return len(self._bulk)

    @property
    def bulk_policy(self) -> Policy:
        """By which rows of jobs are planned."""
        return self.policy.for_bulk(self._limits.bulk_price_factor)

    @property
    def waiting_for_budget(self) -> int:
        return len(self._unfunded)

    @property
    def waiting_for_model(self) -> int:
        """Requests that only sleeping models may answer."""
        return len(self._sleeping)

    @property
    def wanted(self) -> frozenset[str]:
        """Sleeping models that requests wait for."""
        return frozenset(self.policy.engines[place] for place in self._sleeping.wanted)

    def submit(self, entry: Entry) -> None:
        """Queues a request; one that the queue has no place for is refused, or one of whoever holds most of it.

        Accounts take turns. Its priority and how long it waits place a request among its account's own.
        """
        item, entry.decided = entry.item, False
        queue = self._queue_for(item)
        rank = entry.arrived_s / self._limits.aging_s - item.priority
        place, left_s = Place(item.account, None, rank, item.sequences), entry.left_s(self._clock())
        try:
            shed = queue.put(item.id, entry, place, patience_s=left_s)
        except OverloadedError as error:
            self.tell(entry, Refusal(item.id, error, FULL_HOLDS_S if queue.full else 0.0))
            return
        for other, why in shed:
            self.tell(other, Refusal(other.item.id, why))

    def withdraw(self, entry: Entry) -> None:
        """Nobody waits for the request any more; if it is being planned it gets no verdict and holds nothing."""
        entry.cancelled = True
        self._queue_for(entry.item).discard(entry.item.id)
        self._unfunded.discard(entry.item.id)
        self._sleeping.discard(entry.item.id)

    def wake(self) -> None:
        """Something was freed: what waits is worth planning again."""
        if len(self._sleeping):
            self._sleeping.awake(bits(self._reservations.fleet.capacity() > 0))
        self._queue.wake()
        self._bulk.wake()

    async def drain(self) -> None:
        """Returns when no batch is being planned."""
        await self._queue.drain()
        await self._bulk.drain()
        await self._second.drain()

    async def preview(self, items: Sequence[RouteItem], forecast: Unpriced) -> list[Verdict]:
        """What would be decided for the items as one batch with all slots free; takes nothing."""
        return await self._preview.plan(items, forecast, self.policy, self._reservations.empty(items, self.policy))

    def _queue_for(self, item: RouteItem) -> BatchQueue[Entry]:
        if item.first is not None:
            return self._second
        return self._bulk if item.bulk else self._queue

    def _new_queue(self, *, bulk: bool) -> BatchQueue[Entry]:
        plan = self._plan_bulk if bulk else self._plan_interactive
        return self._queue_of(plan, partial(self._reservations.room, bulk=bulk))

    def _queue_of(
        self, plan: Callable[[list[Entry], int], Awaitable[Mapping[str, Lane]]], room: Callable[[], Room]
    ) -> BatchQueue[Entry]:
        limits = self._limits
        return BatchQueue(
            plan,
            room,
            max_batch_size=limits.max_batch_size,
            max_wait_s=limits.max_wait_s,
            max_queue=limits.max_queue,
            patience_s=limits.aging_s,
            clock=self._clock,
        )

    async def _plan_interactive(self, entries: list[Entry], starting: int) -> dict[str, Lane]:
        try:
            return await self._plan_batch(entries, starting, self.policy)
        finally:
            self._bulk.wake()  # which may have been kept from slots until it was known who takes them

    async def _plan_bulk(self, entries: list[Entry], starting: int) -> dict[str, Lane]:
        return await self._plan_batch(entries, starting, self.bulk_policy)

    async def _plan_second(self, entries: list[Entry], starting: int) -> dict[str, Lane]:
        await self._second_stages.decide(entries, self.policy, self)
        return {}

    async def _plan_batch(self, entries: list[Entry], starting: int, policy: Policy) -> dict[str, Lane]:
        for row, entry in enumerate(entries):
            entry.starting = row < starting
        return await self._decider.decide(entries, policy, self)

    def _demand(self) -> Demand:
        models, limits = 0, self._reservations.fleet.concurrency.room()
        for lane in self._queue.lanes():
            models |= wanted(lane, limits)
        return Demand(self._queue.deciding, models)

    def refuse(self, entry: Entry, error: ApportionError) -> None:
        """Tells the request why, or keeps it until there is money again if it asked for that and has the time."""
        wait_s = error.retry_after_s if isinstance(error, BudgetExhaustedError) else None
        left_s = min(entry.left_s(self._clock()), self._limits.longest_request_s)
        if entry.item.ask.wait_for_budget and wait_s is not None and wait_s < left_s:
            entry.replans = 0
            if self._unfunded.put(entry.item.id, entry, wait_s):
                entry.decided = True
                return
        self.tell(entry, Refusal(entry.item.id, error))

    def wait_for_model(self, entry: Entry, error: ApportionError, models: int, best: int) -> None:
        """Keeps the request until one of the models (bits) is awake, for as long as it and the policy allow."""
        now_s = self._clock()
        if entry.wake_by_s is None:
            entry.wake_by_s = now_s + min(self.policy.wake_timeout_s, entry.left_s(now_s))
        wait_s = entry.wake_by_s - now_s
        if wait_s > 0 and self._sleeping.put(entry, error, models, best, wait_s):
            entry.decided = True
        else:
            self._not_woken(entry, error)

    def _not_woken(self, entry: Entry, error: ApportionError) -> None:
        self.tell(entry, Refusal(entry.item.id, error))

    def tell(self, entry: Entry, verdict: Told) -> None:
        """The request has its verdict."""
        entry.decided = True
        self._tell_verdict(entry, verdict)
