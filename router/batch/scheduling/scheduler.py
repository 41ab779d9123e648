"""From requests that wait to their verdicts: batches are planned, and what they need is taken, here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.batch.forecasting.forecaster import Forecaster
from apportion.router.batch.messages import Decision, EngineReplica, PlanTiming, Refusal, RouteItem, Verdict
from apportion.router.batch.planning.batch import by_strategy
from apportion.router.batch.planning.planner import BatchPlanner
from apportion.router.batch.policy import Policy
from apportion.router.batch.queueing.delay import DelayQueue
from apportion.router.batch.queueing.lanes import lanes
from apportion.router.batch.queueing.line import Lane, Place
from apportion.router.batch.queueing.queue import BatchQueue
from apportion.router.batch.reservations.reservations import Reservations, Wish
from apportion.router.batch.scheduling.entry import Entry, estimates_of
from apportion.router.batch.scheduling.preview import Preview
from apportion.router.budget import Shortage
from apportion.router.errors import ApportionError, BudgetExhaustedError, DeadlineError, OverloadedError
from apportion.router.prices import ModelPrice

logger = logging.getLogger(__name__)

MAX_STRATEGIES = 8  # strategies with their options that are planned with one batch, each by itself


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of batches and of waiting.

    Args:
        max_batch_size: most requests of a batch.
        max_wait_s: a batch starts even while another is planned, if its oldest new request has waited this long.
        max_queue: most requests that wait for a slot, and again that wait for money.
        max_queue_bytes: most that these hold; those that are being planned count as waiting for a slot.
        aging_s: waiting this long counts as one more of priority.
        longest_request_s: bounds every request.
        settle_s: so long after its start a scheduler waits for every model to have a replica.
    """

    max_batch_size: int
    max_wait_s: float
    max_queue: int
    max_queue_bytes: int
    aging_s: float
    longest_request_s: float
    settle_s: float


class Scheduler:
    """Owns the queue; tells each request's verdict once its slots and money are taken.

    Args:
        policy: by which batches are planned until another is set.
        tell: takes a request's verdict.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        policy: Policy,
        forecaster: Forecaster,
        planner: BatchPlanner,
        reservations: Reservations,
        limits: BatchLimits,
        tell: Callable[[Entry, Verdict], None],
        clock: Callable[[], float],
        preview: Preview,
    ) -> None:
        self.policy = policy
        self._forecaster = forecaster
        self._planner = planner
        self._preview = preview
        self._reservations = reservations
        self._limits = limits
        self._tell_verdict = tell
        self._clock = clock
        self._settled_s = clock() + limits.settle_s
        self._queue: BatchQueue[Entry] = BatchQueue(
            self._plan_batch,
            reservations.room,
            max_batch_size=limits.max_batch_size,
            max_wait_s=limits.max_wait_s,
            max_queue=limits.max_queue,
            max_bytes=limits.max_queue_bytes,
            patience_s=limits.aging_s,
            clock=clock,
        )
        self._unfunded: DelayQueue[Entry] = DelayQueue(
            self.submit, places=limits.max_queue, max_bytes=limits.max_queue_bytes
        )

    @property
    def waiting(self) -> int:
        """Requests that wait for a plan or a slot."""
        return len(self._queue)

    @property
    def waiting_for_budget(self) -> int:
        return len(self._unfunded)

    def submit(self, entry: Entry) -> None:
        """Queues a request; one that the queue has no place for is refused, or one of whoever holds most of it.

        Accounts take turns. Its priority and how long it waits place a request among its account's own.
        """
        item = entry.item
        rank = entry.arrived_s / self._limits.aging_s - item.priority
        place, left_s = Place(item.account, None, rank, item.sequences), entry.left_s(self._clock())
        try:
            shed = self._queue.put(item.id, entry, place, size_bytes=item.size.held_bytes, patience_s=left_s)
        except OverloadedError as error:
            self._tell(entry, Refusal(item.id, error))
            return
        for other, why in shed:
            self._tell(other, Refusal(other.item.id, why))

    def withdraw(self, entry: Entry) -> None:
        """Nobody waits for the request any more; if it is being planned it gets no verdict and holds nothing."""
        entry.cancelled = True
        self._queue.discard(entry.item.id)
        self._unfunded.discard(entry.item.id)

    def wake(self) -> None:
        """Something was freed: what waits is worth planning again."""
        self._queue.wake()

    async def drain(self) -> None:
        """Returns when no batch is being planned."""
        await self._queue.drain()

    async def preview(self, items: Sequence[RouteItem]) -> list[Verdict]:
        """What would be decided for the items as one batch with all slots free; takes nothing."""
        return await self._preview.plan(items, self.policy, self._reservations.empty(items, self.policy))

    async def _plan_batch(self, entries: list[Entry], starting: int) -> dict[str, Lane]:
        for row, entry in enumerate(entries):
            entry.starting = row < starting
        return await self._plan(entries)

    async def _plan(self, entries: list[Entry]) -> dict[str, Lane]:
        """Plans a batch; returns the ids that have to wait, with their lanes."""
        policy = self.policy  # one for all of the batch, from its estimates to its claims
        try:
            await self._estimate(entries, policy.prices)
            await self._every_model_is_there()
            live = self._still_waiting(entries)
            return await self._decide_all(live, policy)
        except ApportionError as error:
            return self._fail(entries, error)
        except Exception as error:
            # Its class only: what it says may quote a request.
            logger.error("planning %d requests failed: %s", len(entries), type(error).__name__)
            return await self._plan_apart(entries)

    async def _plan_apart(self, entries: list[Entry]) -> dict[str, Lane]:
        """Plans the halves of a batch whose planning failed, until the request that is at fault is alone."""
        left = [entry for entry in entries if not entry.decided]
        if len(left) <= 1:
            return self._fail(left, ApportionError("planning failed for this request; the router's log says why"))
        half = len(left) // 2
        return await self._plan(left[:half]) | await self._plan(left[half:])

    def _fail(self, entries: Sequence[Entry], error: ApportionError) -> dict[str, Lane]:
        for entry in entries:
            if not (entry.decided or entry.cancelled):  # others have their verdict already
                self._unfunded.discard(entry.item.id)
                self._tell(entry, Refusal(entry.item.id, error))
        return {}

    async def _estimate(self, entries: Sequence[Entry], prices: tuple[ModelPrice, ...]) -> None:
        """Estimates what is new, and anew what waits since before the prices changed."""
        unpriced = [entry for entry in entries if entry.prices is not prices and entry.prices != prices]
        if unpriced:
            began_s = self._clock()
            estimates = await self._forecaster.estimate([entry.item for entry in unpriced], prices)
            predict_s = self._clock() - began_s
            for row, entry in enumerate(unpriced):
                entry.estimates, entry.row, entry.prices, entry.predict_s = estimates, row, prices, predict_s

    def _still_waiting(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that somebody waits for; those whose time is up are told so."""
        now_s = self._clock()
        waiting = [entry for entry in entries if not entry.cancelled]
        late = DeadlineError("no slot within the request's time; allow more, or try again later")
        self._fail([entry for entry in waiting if entry.left_s(now_s) <= 0], late)
        return [entry for entry in waiting if entry.left_s(now_s) > 0]

    async def _every_model_is_there(self) -> None:
        """Waits for the replicas' first heartbeats, soon after the start."""
        while not self._reservations.fleet.complete and self._clock() < self._settled_s:  # noqa: ASYNC110 (once)
            await asyncio.sleep(0.05)

    async def _decide_all(self, entries: list[Entry], policy: Policy) -> dict[str, Lane]:
        """Decides one strategy's requests after the other, the policy's own first; some may be for the next batch."""
        left: dict[str, Lane] = {}
        groups = by_strategy([entry.item for entry in entries])
        for rows in groups[:MAX_STRATEGIES]:
            left |= await self._decide([entries[row] for row in rows], policy)
        late = [entries[row] for rows in groups[MAX_STRATEGIES:] for row in rows]
        if late:
            self._queue.wake()
        return left | {entry.item.id: None for entry in late if not entry.cancelled}

    async def _decide(self, entries: list[Entry], policy: Policy) -> dict[str, Lane]:
        items = [entry.item for entry in entries]
        estimates = estimates_of(entries)
        patient = np.array([self._clock() - entry.arrived_s > self._limits.aging_s for entry in entries])
        available = await self._reservations.look(items, estimates, policy, patient)
        began_s = self._clock()
        starting = np.array([entry.starting for entry in entries])
        plan = await self._planner.plan(items, estimates, available, policy, starting=starting)
        solve_s = self._clock() - began_s
        chosen: list[tuple[Entry, Wish]] = []
        for row, entry in enumerate(entries):
            verdict = plan.verdicts.get(entry.item.id)
            if verdict is None or entry.cancelled:
                continue
            if isinstance(verdict, Refusal):
                self._refuse(entry, verdict.error)
                continue
            timing = PlanTiming(began_s - entry.arrived_s - entry.predict_s, entry.predict_s, solve_s)
            decision = replace(verdict, timing=timing, price=policy.price_of(verdict.model))
            counted = estimates.counted_tokens(row, policy.names.index(decision.model))
            chosen.append((entry, Wish(entry.item, decision, available.claim(row, decision.model), counted)))
        waiting = plan.waiting | await self._dispatch(chosen)
        left = [row for row, entry in enumerate(entries) if entry.item.id in waiting and not entry.cancelled]
        if not left:
            return {}
        estimates_of([entries[row] for row in left])  # of their own, so that those of the others can be forgotten
        found = lanes(plan.possible[left], [items[row].sequences for row in left])
        return {items[row].id: lane for row, lane in zip(left, found, strict=True)}

    async def _dispatch(self, chosen: Sequence[tuple[Entry, Wish]]) -> set[str]:
        """Takes what decided requests need, and only then tells where they go; returns what waits."""
        left, short = set(), False
        taken = await self._reservations.take([wish for _, wish in chosen])
        for (entry, wish), got in zip(chosen, taken, strict=True):
            if isinstance(got, EngineReplica):
                self._send(entry, replace(wish.decision, replica=got.id, url=got.url, token=got.token))
            elif entry.cancelled:
                continue
            elif got is None:
                left.add(entry.item.id)
            elif self._may_try_cheaper(entry, got):
                left.add(entry.item.id)
                short = True
            else:
                self._refuse(entry, got.error(self._reservations.spending.now_s()))
        if short:
            self._queue.wake()
        return left

    def _send(self, entry: Entry, decision: Decision) -> None:
        if entry.cancelled:
            self._reservations.release(entry.item.id)
        else:
            self._tell(entry, decision)

    def _may_try_cheaper(self, entry: Entry, shortage: Shortage) -> bool:
        """Whether to plan again, since others of the batch took the money and something is left of it."""
        entry.replans += 1
        return shortage.left_nano > 0 and entry.replans <= len(self.policy.models)

    def _refuse(self, entry: Entry, error: ApportionError) -> None:
        """Tells the request why, or keeps it until there is money again if it asked for that and has the time."""
        wait_s = error.retry_after_s if isinstance(error, BudgetExhaustedError) else None
        left_s = min(entry.left_s(self._clock()), self._limits.longest_request_s)
        if entry.item.ask.wait_for_budget and wait_s is not None and wait_s < left_s:
            entry.replans = 0
            if self._unfunded.put(entry.item.id, entry, wait_s, entry.item.size.held_bytes):
                return
        self._tell(entry, Refusal(entry.item.id, error))

    def _tell(self, entry: Entry, verdict: Verdict) -> None:
        entry.decided = True
        self._tell_verdict(entry, verdict)
