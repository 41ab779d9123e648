"""The Router: owns the queue, the slots and the money; plans batches and tells the ingresses where requests go.

One exchange with an ingress carries many requests, endings and verdicts; answers never pass through here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from apportion.deployments.config.service import LivePolicy, ServiceConfig, live_policy, mean_success
from apportion.deployments.control.mailbox import Entry, Mailbox
from apportion.deployments.keys.keyring import Keyring
from apportion.router.assignment import Assignment, BatchProblem, Strategy
from apportion.router.batch.fleet import Fleet
from apportion.router.batch.messages import (
    Decision,
    Done,
    EngineReplica,
    PlanTiming,
    Refusal,
    Reply,
    Report,
    RouteItem,
    Verdict,
)
from apportion.router.batch.parking import Parking
from apportion.router.batch.planner import Planner
from apportion.router.batch.queue import Batcher
from apportion.router.batch.rate import RateLimiter
from apportion.router.batch.treasury import GRACE_S, Treasury
from apportion.router.budget import Shortage
from apportion.router.budget.standing import Claim
from apportion.router.errors import ApportionError, BudgetExhaustedError, RateLimitError
from apportion.router.estimates import Estimates, concatenate
from apportion.router.prices import ModelPrice

logger = logging.getLogger("ray.serve")

POLL_S = 5.0  # an exchange answers by then, with or without verdicts
INGRESS_TTL_S = 30.0  # an ingress unheard of for so long is taken for dead; what it had in flight is charged and freed
SOLVER_GRACE_S = 0.25
SETTLE_S = 5.0  # a new router waits so long for the replicas' heartbeats before it says that there are none


@serve.deployment(max_ongoing_requests=10_000)
class Router:
    """Plans for all ingresses; one replica, since slots and money have one owner."""

    def __init__(
        self,
        config: ServiceConfig,
        predictor: DeploymentHandle,
        solver: DeploymentHandle,
        engines: dict[str, DeploymentHandle],
    ) -> None:
        self._id = uuid.uuid4().hex
        self._settled_s = time.monotonic() + SETTLE_S
        self._config = config
        self._engines = engines  # held so that Serve deploys them; requests reach them over their own ports
        self._policy = LivePolicy(**config.routing.model_dump()).policy(config.models)
        self._predictor = predictor
        self._solver = solver
        self._fleet = Fleet(config.names)
        budget = config.budget
        self._treasury = Treasury(
            None if budget is None else budget.ledger(),
            config.dispatch.request_timeout_s,
            limits=() if budget is None else (limit.limit() for limit in budget.limits),
            pacing=None if budget is None else budget.pacing.pacing(),
        )
        self._keyring = None if config.keys is None else Keyring(config.keys, config.names)
        self._rates = RateLimiter({})
        self._take_keys()
        self._mailboxes: dict[str, Mailbox] = {}
        self._planner = Planner(
            np.array([model.max_model_len for model in config.models], dtype=float),
            mean_success(config),
            self._predict,
            self._solve,
            predict_timeout_s=config.predictor.timeout_s,
            solve_timeout_s=config.solver.time_limit_s + SOLVER_GRACE_S,
        )
        self._batcher: Batcher[Entry] = Batcher(
            self._plan,
            lambda entry: entry.item.id,
            max_batch_size=config.batching.max_batch_size,
            max_wait_s=config.batching.max_wait_ms / 1e3,
            max_queue=config.batching.max_queue,
            priority=lambda entry: entry.item.priority,
            aging_s=config.batching.aging_s,
        )
        self._parking: Parking[Entry] = Parking(self._put, places=config.batching.max_queue)
        self._sweeper: asyncio.Task[None] | None = None

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new policy for the batches to come; nothing restarts. What it leaves out is as the configuration has it.

        Raises:
            ConfigurationError: a field is wrong; the old policy stays.
        """
        policy = live_policy(user_config, self._config)
        budget = self._config.budget
        if budget is not None:
            limits = budget.limits if policy.limits is None else policy.limits
            self._treasury.set_limits(limit.limit() for limit in limits)
        # What is planned, reserved and dispatched from now on costs this; what is in flight keeps its price.
        self._policy = policy.policy(self._config.models)

    def __del__(self) -> None:
        if hasattr(self, "_treasury"):  # else it is what has failed
            self._treasury.close()

    async def exchange(self, report: Report, wait: bool) -> Reply:
        """An ingress hands over what is new and what has ended, and gets the verdicts that are ready.

        What was handed over before is not taken twice, so a report may be sent again when its reply was lost.

        Args:
            wait: answer when there is a verdict (or after some seconds), not at once.
        """
        self._start_sweeper()
        mailbox = self._mailboxes.setdefault(report.ingress, Mailbox())
        mailbox.seen_s = time.monotonic()
        for held in report.held:
            if mailbox.adopt(held.id):
                self._fleet.adopt(held)
                self._treasury.plan(held.id, held.cost_usd)
        self._end(mailbox, report.done, report.cancelled)
        for item in report.items:
            if not mailbox.knows(item.id):
                self._queue(mailbox, Entry(item, report.ingress))
        if wait:
            await mailbox.wait(POLL_S)
        if report.done or report.cancelled:
            await self._treasury.flush()  # an ending is told again until it is known to be in the ledger
        return Reply(self._id, mailbox.take())

    async def route(self, items: Sequence[RouteItem]) -> list[Verdict]:
        """Plans the items as one batch with all slots free; reserves and runs nothing."""
        self._check_rate(items[0])
        estimates = await self._planner.estimate(items, self._policy.prices)
        capacity = self._fleet.capacity()
        plan = await self._planner.plan(items, estimates, capacity, capacity, self._policy, explain=True)
        waiting = ApportionError("more requests than slots: this one would wait for the next batch")
        return [plan.verdicts.get(item.id) or Refusal(item.id, waiting) for item in items]

    async def announce(self, replica: EngineReplica) -> None:
        """An engine replica's heartbeat."""
        self._start_sweeper()
        if self._fleet.announce(replica):
            self._batcher.wake()

    async def state(self) -> dict[str, Any]:
        """Numbers of the moment: replicas, slots, queue, money, and how well the parts do."""
        return {
            **self._fleet.describe(),
            "parts": self._planner.parts(),
            "rungs": dict(self._planner.rungs),
            "waiting": len(self._batcher),
            "waiting_for_budget": len(self._parking),
            "in_flight": self._fleet.in_flight,
            **await self._treasury.statement(),
            "budget_usd_per_request": self._policy.budget_usd_per_request,
            "strategy": self._policy.strategy.name,
            "prices": {model.name: dataclasses.asdict(model.price) for model in self._policy.models},
        }

    def _queue(self, mailbox: Mailbox, entry: Entry) -> None:
        mailbox.undecided[entry.item.id] = entry
        if not (entry.item.resent or entry.item.avoid_replicas):  # else it has been counted
            try:
                self._check_rate(entry.item)
            except RateLimitError as error:
                mailbox.tell(Refusal(entry.item.id, error))
                return
        self._put(entry)

    def _take_keys(self) -> None:
        """The budgets and rates that keys bring, from the next request on."""
        if self._keyring is not None:
            self._treasury.set_key_limits(self._keyring.limits())
            self._rates.per_minute = self._keyring.rates()

    def _check_rate(self, item: RouteItem) -> None:
        wait_s = self._rates.take(item.account.key, time.monotonic())
        if wait_s is not None:
            raise RateLimitError(
                f"this API key may ask {self._rates.per_minute[item.account.key or '']:g} times a minute; try again in "
                f"{wait_s:.1f} s",
                retry_after_s=wait_s,
            )

    def _put(self, entry: Entry) -> None:
        try:
            self._batcher.put(entry, patience_s=entry.left_s)
        except ApportionError as error:
            self._tell(entry, Refusal(entry.item.id, error))

    async def _plan(self, entries: list[Entry]) -> set[str]:
        try:
            await self._estimate([entry for entry in entries if entry.estimates is None])
            while not self._fleet.complete and time.monotonic() < self._settled_s:  # noqa: ASYNC110 (once, at the start)
                await asyncio.sleep(0.05)
            live = [entry for entry in entries if not entry.cancelled and entry.left_s > 0]
            return await self._decide(live) if live else set()
        except Exception as error:
            logger.exception("planning failed")
            failure = error if isinstance(error, ApportionError) else ApportionError(f"planning failed: {error!r}")
            for entry in entries:
                mailbox = self._mailboxes.get(entry.ingress)
                if mailbox is not None and entry.item.id in mailbox.undecided:  # others have their verdict already
                    self._tell(entry, Refusal(entry.item.id, failure))
            return set()

    async def _estimate(self, entries: list[Entry]) -> None:
        if entries:
            began_s = time.monotonic()
            estimates = await self._planner.estimate([entry.item for entry in entries], self._policy.prices)
            predict_s = time.monotonic() - began_s
            for row, entry in enumerate(entries):
                entry.estimates, entry.predict_s = estimates.rows([row]), predict_s

    async def _decide(self, entries: list[Entry]) -> set[str]:
        items = [entry.item for entry in entries]
        estimates = concatenate([entry.estimates for entry in entries if entry.estimates is not None])
        funds = await self._treasury.look(items, estimates, self._policy)
        began_s = time.monotonic()
        plan = await self._planner.plan(
            items,
            estimates,
            self._fleet.free_slots(),
            self._fleet.capacity(),
            self._policy,
            avoided=self._fleet.avoided(items),
            funds=funds,
        )
        solve_s = time.monotonic() - began_s
        left = set(plan.waiting)
        seated: list[tuple[Entry, Decision]] = []
        claims: list[Claim] = []
        for row, entry in enumerate(entries):
            verdict = plan.verdicts.get(entry.item.id)
            if verdict is None or entry.cancelled:
                continue
            if isinstance(verdict, Refusal):
                self._refuse(entry, verdict.error)
                continue
            timing = PlanTiming(began_s - entry.arrived_s - entry.predict_s, entry.predict_s, solve_s)
            decision = self._seat(entry, verdict, timing)
            if decision is None:
                left.add(entry.item.id)
                continue
            seated.append((entry, decision))
            if funds is not None:
                claims.append(funds.claim(row, decision.model))
        left |= await self._pay(seated, claims)
        return left - {entry.item.id for entry in entries if entry.cancelled}

    def _seat(self, entry: Entry, decision: Decision, timing: PlanTiming) -> Decision | None:
        """Reserves slots; None if they went to another batch meanwhile."""
        replica = self._fleet.seat(entry.item, decision.model)
        if replica is None:
            return None
        return dataclasses.replace(
            decision,
            replica=replica.id,
            url=replica.url,
            timing=timing,
            price=self._policy.price_of(decision.model),
        )

    async def _pay(self, seated: list[tuple[Entry, Decision]], claims: list[Claim]) -> set[str]:
        """Reserves the worst cases of seated requests, and only then tells where they go; returns what waits.

        Args:
            claims: of `seated`, or none if there are no limits.
        """
        shortages: Sequence[Shortage | None] = [None] * len(seated)
        if claims:
            try:
                shortages = await self._treasury.reserve(claims)
            except BaseException:  # whatever it is, nobody is told of these seats
                for _, decision in seated:
                    self._fleet.release(decision.id)
                raise
        left = set()
        for (entry, decision), shortage in zip(seated, shortages, strict=True):
            if shortage is None and not entry.cancelled:
                self._treasury.plan(decision.id, decision.cost_usd)
                self._tell(entry, decision)
                continue
            self._fleet.release(decision.id)
            if shortage is None:
                self._treasury.release(decision.id)
            elif self._may_try_cheaper(entry, shortage):
                left.add(entry.item.id)
            else:
                self._refuse(entry, shortage.error(time.time()))
        if left:
            self._batcher.wake()
        return left

    def _may_try_cheaper(self, entry: Entry, shortage: Shortage) -> bool:
        """Whether to plan again, since others of the batch took the money and something is left of it."""
        entry.replans += 1
        return shortage.left_nano > 0 and entry.replans <= len(self._config.models)

    def _refuse(self, entry: Entry, error: ApportionError) -> None:
        """Tells the request why, or keeps it until there is money again if it asked for that and has the time."""
        wait_s = error.retry_after_s if isinstance(error, BudgetExhaustedError) else None
        may_wait = entry.item.ask.wait_for_budget and not entry.cancelled
        if may_wait and wait_s is not None and wait_s < min(entry.left_s, self._config.dispatch.request_timeout_s):
            entry.replans = 0
            if self._parking.park(entry.item.id, entry, wait_s):
                return
        self._tell(entry, Refusal(entry.item.id, error))

    def _tell(self, entry: Entry, verdict: Verdict) -> None:
        if isinstance(verdict, Refusal) and entry.item.resent:
            self._treasury.release(entry.item.id)  # what a lost router may have reserved for it
        mailbox = self._mailboxes.get(entry.ingress)
        if mailbox is not None:
            mailbox.tell(verdict)

    def _end(self, mailbox: Mailbox, done: Sequence[Done], cancelled: Sequence[str]) -> None:
        for end in done:
            mailbox.end(end.id)
            self._fleet.end(end)
            if end.worked:
                self._treasury.settle(end.id, end.cost_usd)
            else:
                self._treasury.release(end.id)
        for request_id in cancelled:
            entry = mailbox.undecided.pop(request_id, None)
            if entry is not None:
                entry.cancelled = True
                self._batcher.discard(request_id)
                self._parking.discard(request_id)
                if entry.item.resent:
                    self._treasury.release(request_id)
            elif request_id in mailbox.in_flight:
                # Decided while the cancel was on its way; no engine has seen it.
                del mailbox.in_flight[request_id]
                self._fleet.release(request_id)
                self._treasury.release(request_id)
            else:
                self._treasury.release(request_id)  # what a lost router may have reserved for it
        if done or cancelled:
            self._batcher.wake()

    async def _predict(self, items: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        estimates: Estimates = await self._predictor.predict.remote(list(items), list(prices))
        return estimates

    async def _solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        assignment: Assignment = await self._solver.solve.remote(problem, strategy)
        return assignment

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._keyring is not None and self._keyring.refresh():
                self._take_keys()
            await self._treasury.expire()
            await self._planner.try_parts()
            if self._fleet.sweep():
                self._batcher.wake()
            now_s = time.monotonic()
            for name, mailbox in list(self._mailboxes.items()):
                if now_s - mailbox.seen_s > INGRESS_TTL_S:
                    if mailbox.in_flight or mailbox.undecided:
                        logger.warning("ingress %s is gone; freeing what it had in flight", name)
                    self._end(mailbox, [Done(i, None) for i in list(mailbox.in_flight)], list(mailbox.undecided))
                    del self._mailboxes[name]
                elif overdue := mailbox.overdue(self._config.dispatch.request_timeout_s + GRACE_S):
                    logger.warning("%d requests never ended; freeing what they hold", len(overdue))
                    self._end(mailbox, [Done(i, None) for i in overdue], [])
