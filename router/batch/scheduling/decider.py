"""A batch's way from its entries to their verdicts: a plan, and then what each decided request needs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.batch.events import BatchPlanned, Events, Forecast
from apportion.router.batch.forecasting.correction import corrected
from apportion.router.batch.forecasting.timing import timed
from apportion.router.batch.messages import Decision, EngineReplica, PlanTiming, Refusal, Told
from apportion.router.batch.money.savings import is_pooled
from apportion.router.batch.planning.batch import by_strategy
from apportion.router.batch.planning.planner import BatchPlanner, Plan
from apportion.router.batch.policy import Policy, priority_weight
from apportion.router.batch.queueing.lanes import bits, lanes
from apportion.router.batch.queueing.line import Lane
from apportion.router.batch.reservations.reservations import Reservations, Wish
from apportion.router.batch.scheduling.entry import Entry, unpriced_of
from apportion.router.budget import Shortage
from apportion.router.drift.lengths import Lengths
from apportion.router.drift.speeds import Speeds
from apportion.router.errors import ApportionError, DeadlineError

logger = logging.getLogger(__name__)

MAX_STRATEGIES = 8  # strategies with their options that are planned with one batch, each by itself


class Desk(Protocol):
    """Who hears what became of a batch's requests."""

    def tell(self, entry: Entry, verdict: Told) -> None:
        """The request has its verdict."""

    def refuse(self, entry: Entry, error: ApportionError) -> None:
        """The request goes nowhere now; it may wait for money."""

    def wait_for_model(self, entry: Entry, error: ApportionError, models: int, best: int) -> None:
        """The request goes nowhere until one of the models (bits) is awake; `best` is the place of the one to wake."""

    def wake(self) -> None:
        """What was left is worth planning again at once."""


class Decider:
    """Plans batches and takes what they need.

    Args:
        lengths: how long answers are of what was expected.
        speeds: how long models take for them.
        patience_s: room is made for a request that has waited so long.
        settle_s: so long after its start every model is waited for.
        clock: seconds of a monotonic clock.
        events: is told of every batch.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        planner: BatchPlanner,
        reservations: Reservations,
        lengths: Lengths,
        speeds: Speeds,
        clock: Callable[[], float],
        *,
        patience_s: float,
        settle_s: float,
        events: Events,
        wall_clock: Callable[[], float],
    ) -> None:
        self._planner = planner
        self._reservations = reservations
        self._lengths = lengths
        self._speeds = speeds
        self._clock = clock
        self._patience_s = patience_s
        self._settled_s = clock() + settle_s
        self._events = events
        self._wall_clock = wall_clock

    async def decide(self, entries: list[Entry], policy: Policy, desk: Desk) -> dict[str, Lane]:
        """Plans a batch; returns the ids that have to wait, with their lanes.

        Args:
            policy: one for all of the batch, from its prices to its claims.
            desk: is told what became of the others.
        """
        try:
            await self._every_model_is_there()
            live = self._still_waiting(entries, desk)
            return await self._decide_all(live, policy, desk)
        except ApportionError as error:
            return _fail(entries, error, desk)
        except Exception as error:
            # Its class only: what it says may quote a request.
            logger.error("planning %d requests failed: %s", len(entries), type(error).__name__)
            return await self._decide_apart(entries, policy, desk)

    async def _decide_apart(self, entries: list[Entry], policy: Policy, desk: Desk) -> dict[str, Lane]:
        """Plans the halves of a batch whose planning failed, until the request that is at fault is alone."""
        if len(entries) == 1:
            return _fail(entries, ApportionError("planning failed for this request; the router's log says why"), desk)
        left = [entry for entry in entries if not entry.decided]
        half = (len(left) + 1) // 2
        waiting: dict[str, Lane] = {}
        for part in (left[:half], left[half:]):
            if part:
                waiting |= await self.decide(part, policy, desk)
        return waiting

    def _still_waiting(self, entries: Sequence[Entry], desk: Desk) -> list[Entry]:
        """Those that somebody waits for; those whose time is up are told so."""
        now_s = self._clock()
        waiting = [entry for entry in entries if not entry.cancelled]
        late = DeadlineError("no slot within the request's time; allow more, or try again later")
        _fail([entry for entry in waiting if entry.left_s(now_s) <= 0], late, desk)
        return [entry for entry in waiting if entry.left_s(now_s) > 0]

    async def _every_model_is_there(self) -> None:
        """Waits for the replicas' first heartbeats, soon after the start."""
        while not self._reservations.fleet.complete and self._clock() < self._settled_s:  # noqa: ASYNC110 (once)
            await asyncio.sleep(0.05)

    async def _decide_all(self, entries: list[Entry], policy: Policy, desk: Desk) -> dict[str, Lane]:
        """Decides one strategy's requests after the other, the policy's own first; some may be for the next batch."""
        left: dict[str, Lane] = {}
        groups = by_strategy([entry.item for entry in entries])
        for rows in groups[:MAX_STRATEGIES]:
            left |= await self._decide([entries[row] for row in rows], policy, desk)
        late = [entries[row] for rows in groups[MAX_STRATEGIES:] for row in rows]
        if late:
            desk.wake()
        return left | {entry.item.id: None for entry in late if not entry.cancelled}

    async def _decide(self, entries: list[Entry], policy: Policy, desk: Desk) -> dict[str, Lane]:
        items = [entry.item for entry in entries]
        unpriced = unpriced_of(entries)
        estimates = corrected(unpriced.priced(policy.prices), items, policy, self._lengths)
        arrived_s = np.array([entry.arrived_s for entry in entries])
        patient = self._clock() - arrived_s > self._patience_s
        available = await self._reservations.look(items, estimates, policy, patient)
        estimates = timed(estimates, unpriced, items, self._lengths, self._speeds, available.running)
        began_s = self._clock()
        starting = np.array([entry.starting for entry in entries])
        waited_s = began_s - arrived_s + np.array([item.predict_s for item in items])
        plan = await self._planner.plan(items, estimates, available, policy, starting=starting, waited_s=waited_s)
        solve_s = self._clock() - began_s
        chosen: list[tuple[Entry, Wish]] = []
        for row, entry in enumerate(entries):
            verdict = plan.verdicts.get(entry.item.id)
            if verdict is None or entry.cancelled:
                continue
            if isinstance(verdict, Refusal):
                _refuse(entry, row, verdict.error, plan, policy, desk)
                continue
            column = policy.column_of(verdict.model)
            entry.forecast = Forecast(policy.names, plan.estimates, row, plan.allowed[row])
            columns = {verdict.id: column}
            if verdict.second is not None:
                columns[verdict.second.id] = policy.column_of(verdict.second.model)
            counted = estimates.counted_tokens(row, column)
            chosen.append((entry, Wish(entry.item, verdict, available.claims(row, columns), counted)))
        try:
            waiting = plan.waiting | await self._dispatch(chosen, policy, began_s, solve_s, desk)
        finally:
            self._publish(plan, entries, policy, began_s, solve_s)
        left = [row for row, entry in enumerate(entries) if entry.item.id in waiting and not entry.cancelled]
        if not left:
            return {}
        unpriced_of([entries[row] for row in left])  # of their own, so that those of the others can be forgotten
        engines, sequences = policy.engines_with(plan.possible[left]), [items[row].sequences for row in left]
        found = lanes(engines, sequences, plan.needs(left))
        return {items[row].id: lane for row, lane in zip(left, found, strict=True)}

    async def _dispatch(
        self, chosen: Sequence[tuple[Entry, Wish]], policy: Policy, began_s: float, solve_s: float, desk: Desk
    ) -> set[str]:
        """Takes what decided requests need, and only then tells where they go; returns what waits."""
        left, short = set(), False
        taken = await self._reservations.take([wish for _, wish in chosen])
        for (entry, wish), got in zip(chosen, taken, strict=True):
            if isinstance(got, EngineReplica):
                timing = PlanTiming(began_s - entry.arrived_s, entry.item.predict_s, solve_s)
                self._send(entry, wish.decision.seated(got, policy.price_of(wish.decision.model), timing), desk)
            elif entry.cancelled:
                continue
            elif got is None:
                left.add(entry.item.id)
            elif _may_try_cheaper(entry, got, policy):
                left.add(entry.item.id)
                short = True
            else:
                desk.refuse(entry, got.error(self._reservations.spending.now_s()))
        if short:
            desk.wake()
        self._save([one for one, got in zip(chosen, taken, strict=True) if isinstance(got, EngineReplica)], policy)
        return left

    def _save(self, seated: Sequence[tuple[Entry, Wish]], policy: Policy) -> None:
        """What those who go to an engine leave of their money is there for others."""
        each_usd, most = policy.budget_usd_per_request, policy.pool_requests
        if each_usd is None or not most:
            return
        pooled = [
            (wish, forecast)
            for entry, wish in seated
            if (forecast := entry.forecast) is not None and is_pooled(wish.item, forecast.guessed)
        ]
        if not pooled:
            return
        value = np.stack([_value(forecast, policy) for _, forecast in pooled])
        weight = priority_weight([wish.item.priority for wish, _ in pooled])
        if weight is not None:
            value *= weight[:, None]
        cost_usd = np.stack([np.where(forecast.allowed, forecast.cost_usd, np.inf) for _, forecast in pooled])
        spent_usd = sum(wish.decision.cost_usd for wish, _ in pooled)
        self._reservations.savings.take(value, cost_usd, spent_usd, each_usd, most)

    def _publish(self, plan: Plan, entries: Sequence[Entry], policy: Policy, began_s: float, solve_s: float) -> None:
        take_s = self._clock() - began_s - solve_s
        refused = Counter(
            one.error.code for name, one in plan.verdicts.items() if isinstance(one, Refusal) and name not in plan.wakes
        )
        for group in plan.groups:
            self._events.publish(
                BatchPlanned(
                    at_s=self._wall_clock(),
                    info=group.info,
                    strategy=group.strategy,
                    rung=group.rung,
                    static=group.static,
                    gap=group.assignment.gap,
                    models=policy.names,
                    placed=group.placed,
                    candidates=group.candidates,
                    slot_prices=group.assignment.prices.slots[policy.engine_of],
                    limit_prices=group.limit_prices,
                    waiting=len(plan.waiting) + len(plan.wakes),
                    refused=refused,
                    queue_s=max(began_s - entry.arrived_s for entry in entries),
                    predict_s=max(entry.item.predict_s for entry in entries),
                    solve_s=solve_s,
                    take_s=take_s,
                    bulk=entries[0].item.bulk,
                )
            )

    def _send(self, entry: Entry, decision: Decision, desk: Desk) -> None:
        if entry.cancelled:
            self._reservations.drop(decision)
        else:
            desk.tell(entry, decision)


def _refuse(entry: Entry, row: int, error: ApportionError, plan: Plan, policy: Policy, desk: Desk) -> None:
    best = plan.wakes.get(entry.item.id)
    if best is None:
        desk.refuse(entry, error)
        return
    unpriced_of([entry])  # a table of its own: it may wait for longer than the others
    engines = policy.engines_with(plan.possible[row : row + 1])[0]
    desk.wait_for_model(entry, error, bits(engines), int(policy.engine_of[best]))


def _fail(entries: Sequence[Entry], error: ApportionError, desk: Desk) -> dict[str, Lane]:
    for entry in entries:
        if not (entry.decided or entry.cancelled):  # others have their verdict already
            desk.tell(entry, Refusal(entry.item.id, error))
    return {}


def _value(forecast: Forecast, policy: Policy) -> FloatArray:
    """(M,) what the objective counts for each model."""
    penalty = policy.penalty(forecast.seconds)
    return forecast.success if penalty is None else forecast.success - penalty


def _may_try_cheaper(entry: Entry, shortage: Shortage, policy: Policy) -> bool:
    """Whether to plan again, since others of the batch took the money and something is left of it."""
    entry.replans += 1
    return shortage.left_nano > 0 and entry.replans <= len(policy.models)
