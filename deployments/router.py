"""The Router: owns the queue, the slots and the money; plans batches and tells the ingresses where requests go.

One exchange with an ingress carries many requests, endings and verdicts; answers never pass through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.batcher import Batcher
from deployments.config import RoutingConfig, ServiceConfig, describe, mean_success
from deployments.estimates import Estimates, concatenate
from deployments.messages import Decision, Done, EngineReplica, Refusal, RouteItem, Verdict
from deployments.planner import Planner
from router.assignment import Assignment, BatchProblem, Strategy
from router.budget import Tally
from router.errors import ApportionError, ConfigurationError
from router.slots import SlotLedger

logger = logging.getLogger("ray.serve")

POLL_S = 5.0  # an exchange answers by then, with or without verdicts
REPLICA_TTL_S = 10.0  # an engine replica unheard of for so long is taken for dead
INGRESS_TTL_S = 30.0  # likewise an ingress; what it had in flight is charged and freed
SOLVER_GRACE_S = 0.25


@dataclass(slots=True)
class _Entry:
    item: RouteItem
    ingress: str
    estimates: Estimates | None = None
    cancelled: bool = False


@dataclass(slots=True)
class _IngressState:
    """What waits to be told to one ingress, and what it owns."""

    verdicts: list[Verdict] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    undecided: dict[str, _Entry] = field(default_factory=dict)
    in_flight: set[str] = field(default_factory=set)
    seen_s: float = field(default_factory=time.monotonic)

    def tell(self, verdict: Verdict) -> None:
        self.undecided.pop(verdict.id, None)
        self.verdicts.append(verdict)
        self.ready.set()

    def take(self) -> list[Verdict]:
        verdicts, self.verdicts = self.verdicts, []
        self.ready.clear()
        return verdicts


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
        self._config = config
        self._engines = engines  # held so that Serve deploys them; requests reach them over their own ports
        self._policy = config.routing
        self._predictor = predictor
        self._solver = solver
        self._columns = {name: column for column, name in enumerate(config.names)}
        self._slots = SlotLedger(len(config.models))
        self._tally = Tally()
        self._urls: dict[str, str] = {}
        self._heard_s: dict[str, float] = {}
        self._ingresses: dict[str, _IngressState] = {}
        self._planner = Planner(
            config.models,
            mean_success(config),
            self._predict,
            self._solve,
            predict_timeout_s=config.predictor.timeout_s,
            solve_timeout_s=config.solver.time_limit_s + SOLVER_GRACE_S,
        )
        self._batcher: Batcher[_Entry] = Batcher(
            self._plan,
            lambda entry: entry.item.id,
            max_batch_size=config.batching.max_batch_size,
            max_wait_s=config.batching.max_wait_ms / 1e3,
            max_queue=config.batching.max_queue,
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

    async def exchange(
        self,
        ingress: str,
        items: Sequence[RouteItem],
        done: Sequence[Done],
        cancelled: Sequence[str],
        wait: bool,
    ) -> list[Verdict]:
        """An ingress hands over what is new and what has ended, and gets the verdicts that are ready.

        Args:
            wait: answer when there is a verdict (or after some seconds), not at once.
        """
        self._start_sweeper()
        state = self._ingresses.setdefault(ingress, _IngressState())
        state.seen_s = time.monotonic()
        self._end(state, done, cancelled)
        for item in items:
            entry = _Entry(item, ingress)
            state.undecided[item.id] = entry
            try:
                self._batcher.put(entry)
            except ApportionError as error:
                state.tell(Refusal(item.id, error))
        if wait and not state.verdicts:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(state.ready.wait(), POLL_S)
        return state.take()

    async def route(self, items: Sequence[RouteItem]) -> list[Verdict]:
        """Plans the items as one batch with all slots free; reserves and runs nothing."""
        estimates = await self._planner.estimate(items)
        capacity = self._slots.capacity()
        plan = await self._planner.plan(items, estimates, capacity, capacity, self._policy, explain=True)
        waiting = ApportionError("more requests than slots: this one would wait for the next batch")
        return [plan.verdicts.get(item.id) or Refusal(item.id, waiting) for item in items]

    async def announce(self, replica: EngineReplica) -> None:
        """An engine replica's heartbeat."""
        self._start_sweeper()
        if replica.draining or replica.model not in self._columns:
            self._drop_replica(replica.id)
            return
        is_new = replica.id not in self._urls
        self._heard_s[replica.id] = time.monotonic()
        self._urls[replica.id] = replica.url
        self._slots.join(replica.id, self._columns[replica.model], replica.slots)
        if is_new:
            logger.info("replica %s of %s joined at %s", replica.id, replica.model, replica.url)
            self._batcher.wake()

    def state(self) -> dict[str, Any]:
        """Numbers of the moment: replicas, slots, queue, money."""
        capacity, free = self._slots.capacity().tolist(), self._slots.free_slots().tolist()
        return {
            "models": {
                name: {"slots": capacity[column], "free_slots": free[column]} for name, column in self._columns.items()
            },
            "replicas": dict(self._urls),
            "waiting": len(self._batcher),
            "in_flight": self._slots.in_flight,
            "reserved_usd": self._tally.planned_usd,
            "spent_usd": self._tally.spent_usd,
            "budget_usd_per_request": self._policy.budget_usd_per_request,
            "strategy": self._policy.strategy,
        }

    async def _plan(self, entries: list[_Entry]) -> set[str]:
        fresh = [entry for entry in entries if entry.estimates is None]
        if fresh:
            estimates = await self._planner.estimate([entry.item for entry in fresh])
            for row, entry in enumerate(fresh):
                entry.estimates = estimates.rows([row])
        live = [entry for entry in entries if not entry.cancelled and entry.estimates is not None]
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

    async def _decide(self, entries: list[_Entry]) -> set[str]:
        items = [entry.item for entry in entries]
        estimates = concatenate([entry.estimates for entry in entries if entry.estimates is not None])
        plan = await self._planner.plan(
            items, estimates, self._slots.free_slots(), self._slots.capacity(), self._policy
        )
        left = set(plan.waiting)
        for entry in entries:
            verdict = plan.verdicts.get(entry.item.id)
            if verdict is None or entry.cancelled:
                continue
            if isinstance(verdict, Decision):
                verdict = self._seat(entry, verdict)
            if verdict is None:
                left.add(entry.item.id)
            else:
                self._tell(entry, verdict)
        return left - {entry.item.id for entry in entries if entry.cancelled}

    def _seat(self, entry: _Entry, decision: Decision) -> Decision | None:
        """Reserves slot and money; None if the slots went to another batch meanwhile."""
        column = self._columns[decision.model]
        replica = self._slots.reserve(decision.id, column, entry.item.sequences)
        if replica is None:
            return None
        self._tally.plan(decision.id, decision.cost_usd)
        self._ingresses[entry.ingress].in_flight.add(decision.id)
        return dataclasses.replace(decision, replica=replica, url=self._urls[replica])

    def _free(self, request_id: str) -> None:
        self._slots.release(request_id)
        self._tally.release(request_id)

    def _tell(self, entry: _Entry, verdict: Verdict) -> None:
        state = self._ingresses.get(entry.ingress)
        if state is not None:
            state.tell(verdict)

    def _end(self, state: _IngressState, done: Sequence[Done], cancelled: Sequence[str]) -> None:
        for end in done:
            state.in_flight.discard(end.id)
            if end.lost_replica:
                self._lose_replica_of(end.id)
            if end.worked:
                self._tally.end(end.id, end.cost_usd)
            self._free(end.id)
        for request_id in cancelled:
            entry = state.undecided.pop(request_id, None)
            if entry is not None:
                entry.cancelled = True
                self._batcher.discard(request_id)
            elif request_id in state.in_flight:
                # Decided while the cancel was on its way; no engine has seen it.
                state.in_flight.discard(request_id)
                self._free(request_id)
        if done or cancelled:
            self._batcher.wake()

    async def _predict(self, items: Sequence[RouteItem]) -> Estimates:
        return await self._predictor.predict.remote(list(items))

    async def _solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        return await self._solver.solve.remote(problem, strategy)

    def _lose_replica_of(self, request_id: str) -> None:
        replica = self._slots.replica_of(request_id)
        if replica is not None:
            self._drop_replica(replica)

    def _drop_replica(self, replica: str) -> None:
        if self._urls.pop(replica, None) is not None:
            logger.info("replica %s left", replica)
        self._heard_s.pop(replica, None)
        self._slots.leave(replica)

    def _start_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now_s = time.monotonic()
            for replica in [r for r, heard_s in self._heard_s.items() if now_s - heard_s > REPLICA_TTL_S]:
                self._drop_replica(replica)
                self._batcher.wake()  # what waited for its slots may now be refused
            for name, state in list(self._ingresses.items()):
                if now_s - state.seen_s > INGRESS_TTL_S and (state.in_flight or state.undecided):
                    logger.warning("ingress %s is gone; freeing what it had in flight", name)
                    self._end(state, [Done(i, None) for i in list(state.in_flight)], list(state.undecided))
                    del self._ingresses[name]
