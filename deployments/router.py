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
from deployments.config import LivePolicy, ServiceConfig, describe, mean_success
from deployments.estimates import Estimates, concatenate
from deployments.messages import Decision, Done, EngineReplica, Refusal, RouteItem, Verdict
from deployments.parking import Parking
from deployments.planner import Planner
from deployments.treasury import Treasury
from router.assignment import Assignment, BatchProblem, Strategy
from router.budget import Shortage
from router.budget.standing import Claim
from router.errors import ApportionError, BudgetExhaustedError, ConfigurationError
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
    replans: int = 0  # because the money for the plan was gone
    gives_up_s: float = 0.0  # on the monotonic clock


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
        self._treasury = Treasury(config.budget, config.models, config.dispatch.request_timeout_s)
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
        self._parking: Parking[_Entry] = Parking(self._queue, places=config.batching.max_queue)
        self._sweeper: asyncio.Task[None] | None = None

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new policy for the batches to come; nothing restarts.

        Raises:
            ConfigurationError: a field is wrong; the old policy stays.
        """
        try:
            policy = LivePolicy.model_validate(user_config)
        except ValueError as error:
            message = describe(error) if hasattr(error, "errors") else str(error)
            raise ConfigurationError(f"Router.user_config: {message}") from error
        self._policy = policy
        if self._config.budget is not None:
            limits = self._config.budget.limits if policy.limits is None else policy.limits
            self._treasury.set_limits(limit.limit() for limit in limits)
        elif policy.limits:
            raise ConfigurationError("Router.user_config: limits need a `budget` section with a database")

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
            entry = _Entry(item, ingress, gives_up_s=time.monotonic() + self._config.dispatch.request_timeout_s)
            state.undecided[item.id] = entry
            self._queue(entry)
        await self._treasury.flush()  # an ending is told again until it is known to be in the ledger
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

    def _queue(self, entry: _Entry) -> None:
        try:
            self._batcher.put(entry)
        except ApportionError as error:
            self._tell(entry, Refusal(entry.item.id, error))

    async def state(self) -> dict[str, Any]:
        """Numbers of the moment: replicas, slots, queue, money."""
        capacity, free = self._slots.capacity().tolist(), self._slots.free_slots().tolist()
        return {
            "models": {
                name: {"slots": capacity[column], "free_slots": free[column]} for name, column in self._columns.items()
            },
            "replicas": dict(self._urls),
            "waiting": len(self._batcher),
            "waiting_for_budget": len(self._parking),
            "in_flight": self._slots.in_flight,
            **await self._treasury.statement(),
            "budget_usd_per_request": self._policy.budget_usd_per_request,
            "strategy": self._policy.strategy,
        }

    def __del__(self) -> None:
        if hasattr(self, "_treasury"):  # else it is what has failed
            self._treasury.close()

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
        funds = await self._treasury.look(items, estimates)
        plan = await self._planner.plan(
            items, estimates, self._slots.free_slots(), self._slots.capacity(), self._policy, funds=funds
        )
        left = set(plan.waiting)
        seated: list[tuple[_Entry, Decision]] = []
        claims: list[Claim] = []
        for row, entry in enumerate(entries):
            verdict = plan.verdicts.get(entry.item.id)
            if verdict is None or entry.cancelled:
                continue
            if isinstance(verdict, Refusal):
                self._refuse(entry, verdict.error)
            elif (decision := self._seat(entry, verdict)) is None:
                left.add(entry.item.id)
            else:
                seated.append((entry, decision))
                claims += [] if funds is None else [funds.claim(row, decision.model)]
        left |= await self._pay(seated, claims)
        return left - {entry.item.id for entry in entries if entry.cancelled}

    async def _pay(self, seated: list[tuple[_Entry, Decision]], claims: list[Claim]) -> set[str]:
        """Reserves the worst cases of seated requests, and only then tells where they go; returns what waits."""
        try:
            shortages = await self._treasury.reserve(claims) if claims else [None] * len(seated)
        except ApportionError:
            for _, decision in seated:
                self._slots.release(decision.id)
            raise
        left = set()
        for (entry, decision), shortage in zip(seated, shortages, strict=True):
            if shortage is None and not entry.cancelled:
                self._treasury.plan(decision.id, decision.cost_usd)
                self._ingresses[entry.ingress].in_flight.add(decision.id)
                self._tell(entry, decision)
                continue
            if shortage is None:
                self._free(decision.id)
                continue
            self._slots.release(decision.id)
            if self._try_cheaper(entry, shortage):
                left.add(entry.item.id)
            else:
                self._refuse(entry, shortage.error(time.time()))
        if left:
            self._batcher.wake()
        return left

    def _try_cheaper(self, entry: _Entry, shortage: Shortage) -> bool:
        """Whether to plan again, since others of the batch took the money and something is left of it."""
        entry.replans += 1
        return shortage.left_nano > 0 and entry.replans <= len(self._columns) and not entry.cancelled

    def _refuse(self, entry: _Entry, error: ApportionError) -> None:
        """Tells the request why, or keeps it until there is money again if it asked for that and has the time."""
        if (
            entry.item.ask.wait_for_budget
            and isinstance(error, BudgetExhaustedError)
            and error.retry_after_s is not None
            and time.monotonic() + error.retry_after_s < entry.gives_up_s
            and not entry.cancelled
        ):
            entry.replans = 0
            if self._parking.park(entry.item.id, entry, error.retry_after_s):
                return
        self._tell(entry, Refusal(entry.item.id, error))

    def _seat(self, entry: _Entry, decision: Decision) -> Decision | None:
        """Reserves slots; None if they went to another batch meanwhile."""
        column = self._columns[decision.model]
        replica = self._slots.reserve(decision.id, column, entry.item.sequences)
        if replica is None:
            return None
        return dataclasses.replace(decision, replica=replica, url=self._urls[replica])

    def _free(self, request_id: str) -> None:
        """Ends a request that no engine worked on."""
        self._slots.release(request_id)
        self._treasury.release(request_id)

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
                self._treasury.settle(end.id, end.cost_usd)
                self._slots.release(end.id)
            else:
                self._free(end.id)
        for request_id in cancelled:
            entry = state.undecided.pop(request_id, None)
            if entry is not None:
                entry.cancelled = True
                self._batcher.discard(request_id)
                self._parking.discard(request_id)
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
            await self._treasury.expire()
            now_s = time.monotonic()
            for replica in [r for r, heard_s in self._heard_s.items() if now_s - heard_s > REPLICA_TTL_S]:
                self._drop_replica(replica)
                self._batcher.wake()  # what waited for its slots may now be refused
            for name, state in list(self._ingresses.items()):
                if now_s - state.seen_s > INGRESS_TTL_S and (state.in_flight or state.undecided):
                    logger.warning("ingress %s is gone; freeing what it had in flight", name)
                    self._end(state, [Done(i, None) for i in list(state.in_flight)], list(state.undecided))
                    del self._ingresses[name]
