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

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.batcher import Batcher
from deployments.config import RoutingConfig, ServiceConfig, describe, mean_success
from deployments.estimates import Estimates, concatenate
from deployments.fleet import Fleet
from deployments.mailbox import Entry, Mailbox
from deployments.messages import Decision, Done, EngineReplica, PlanTiming, Refusal, Reply, Report, RouteItem, Verdict
from deployments.planner import Planner
from router.assignment import Assignment, BatchProblem, Strategy
from router.budget import Tally
from router.errors import ApportionError, ConfigurationError

logger = logging.getLogger("ray.serve")

POLL_S = 5.0  # an exchange answers by then, with or without verdicts
INGRESS_TTL_S = 30.0  # an ingress unheard of for so long is taken for dead; what it had in flight is charged and freed
SOLVER_GRACE_S = 0.25


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
        self._config = config
        self._engines = engines  # held so that Serve deploys them; requests reach them over their own ports
        self._policy = config.routing
        self._predictor = predictor
        self._solver = solver
        self._fleet = Fleet(config.names)
        self._tally = Tally()
        self._mailboxes: dict[str, Mailbox] = {}
        self._planner = Planner(
            config.models,
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
        self._sweeper: asyncio.Task[None] | None = None

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new policy for the batches to come; nothing restarts.

        Raises:
            ConfigurationError: a field is wrong; the old policy stays.
        """
        try:
            self._policy = RoutingConfig.model_validate(user_config)
        except ValueError as error:
            message = describe(error) if hasattr(error, "errors") else str(error)
            raise ConfigurationError(f"Router.user_config: {message}") from error

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
            if held.id not in mailbox.in_flight:
                mailbox.in_flight[held.id] = None
                self._fleet.adopt(held)
                self._tally.plan(held.id, held.cost_usd)
        self._end(mailbox, report.done, report.cancelled)
        for item in report.items:
            if not mailbox.knows(item.id):
                self._queue(mailbox, Entry(item, report.ingress))
        if wait:
            await mailbox.wait(POLL_S)
        return Reply(self._id, mailbox.take())

    async def route(self, items: Sequence[RouteItem]) -> list[Verdict]:
        """Plans the items as one batch with all slots free; reserves and runs nothing."""
        estimates = await self._planner.estimate(items)
        capacity = self._fleet.capacity()
        plan = await self._planner.plan(items, estimates, capacity, capacity, self._policy, explain=True)
        waiting = ApportionError("more requests than slots: this one would wait for the next batch")
        return [plan.verdicts.get(item.id) or Refusal(item.id, waiting) for item in items]

    async def announce(self, replica: EngineReplica) -> None:
        """An engine replica's heartbeat."""
        self._start_sweeper()
        if self._fleet.announce(replica):
            self._batcher.wake()

    def state(self) -> dict[str, Any]:
        """Numbers of the moment: replicas, slots, queue, money, and how well the parts do."""
        return {
            **self._fleet.describe(),
            "parts": self._planner.parts(),
            "rungs": dict(self._planner.rungs),
            "waiting": len(self._batcher),
            "in_flight": self._fleet.in_flight,
            "reserved_usd": self._tally.planned_usd,
            "spent_usd": self._tally.spent_usd,
            "budget_usd_per_request": self._policy.budget_usd_per_request,
            "strategy": self._policy.strategy,
        }

    def _queue(self, mailbox: Mailbox, entry: Entry) -> None:
        mailbox.undecided[entry.item.id] = entry
        try:
            self._batcher.put(entry, patience_s=entry.item.timeout_s)
        except ApportionError as error:
            mailbox.tell(Refusal(entry.item.id, error))

    async def _plan(self, entries: list[Entry]) -> set[str]:
        fresh = [entry for entry in entries if entry.estimates is None]
        if fresh:
            began_s = time.monotonic()
            estimates = await self._planner.estimate([entry.item for entry in fresh])
            predict_s = time.monotonic() - began_s
            for row, entry in enumerate(fresh):
                entry.estimates, entry.predict_s = estimates.rows([row]), predict_s
        live = [entry for entry in entries if not (entry.cancelled or entry.expired)]
        if not live:
            return set()
        try:
            return await self._decide(live)
        except Exception as error:
            logger.exception("planning failed")
            failure = error if isinstance(error, ApportionError) else ApportionError(f"planning failed: {error!r}")
            for entry in live:
                self._tell(entry, Refusal(entry.item.id, failure))
            return set()

    async def _decide(self, entries: list[Entry]) -> set[str]:
        items = [entry.item for entry in entries]
        estimates = concatenate([entry.estimates for entry in entries if entry.estimates is not None])
        began_s = time.monotonic()
        plan = await self._planner.plan(
            items,
            estimates,
            self._fleet.free_slots(),
            self._fleet.capacity(),
            self._policy,
            avoided=self._fleet.avoided(items),
        )
        solve_s = time.monotonic() - began_s
        left = set(plan.waiting)
        for entry in entries:
            verdict = plan.verdicts.get(entry.item.id)
            if verdict is None or entry.cancelled:
                continue
            if isinstance(verdict, Decision):
                timing = PlanTiming(began_s - entry.arrived_s - entry.predict_s, entry.predict_s, solve_s)
                verdict = self._seat(entry, verdict, timing)
            if verdict is None:
                left.add(entry.item.id)
            else:
                self._tell(entry, verdict)
        return left - {entry.item.id for entry in entries if entry.cancelled}

    def _seat(self, entry: Entry, decision: Decision, timing: PlanTiming) -> Decision | None:
        """Reserves slot and money; None if the slots went to another batch meanwhile."""
        replica = self._fleet.seat(entry.item, decision.model)
        if replica is None:
            return None
        self._tally.plan(decision.id, decision.cost_usd)
        return dataclasses.replace(decision, replica=replica.id, url=replica.url, timing=timing)

    def _tell(self, entry: Entry, verdict: Verdict) -> None:
        mailbox = self._mailboxes.get(entry.ingress)
        if mailbox is not None:
            mailbox.tell(verdict)

    def _end(self, mailbox: Mailbox, done: Sequence[Done], cancelled: Sequence[str]) -> None:
        for end in done:
            mailbox.in_flight.pop(end.id, None)
            self._fleet.end(end)
            if end.worked:
                self._tally.end(end.id, end.cost_usd)
            else:
                self._tally.release(end.id)
        for request_id in cancelled:
            entry = mailbox.undecided.pop(request_id, None)
            if entry is not None:
                entry.cancelled = True
                self._batcher.discard(request_id)
            elif request_id in mailbox.in_flight:
                # Decided while the cancel was on its way; no engine has seen it.
                del mailbox.in_flight[request_id]
                self._fleet.release(request_id)
                self._tally.release(request_id)
        if done or cancelled:
            self._batcher.wake()

    async def _predict(self, items: Sequence[RouteItem]) -> Estimates:
        return await self._predictor.predict.remote(list(items))

    async def _solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        return await self._solver.solve.remote(problem, strategy)

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._fleet.sweep():
                self._batcher.wake()
            now_s = time.monotonic()
            for name, mailbox in list(self._mailboxes.items()):
                if now_s - mailbox.seen_s > INGRESS_TTL_S:
                    if mailbox.in_flight or mailbox.undecided:
                        logger.warning("ingress %s is gone; freeing what it had in flight", name)
                    self._end(mailbox, [Done(i, None) for i in list(mailbox.in_flight)], list(mailbox.undecided))
                    del self._mailboxes[name]
