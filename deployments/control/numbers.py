"""The Router's numbers of the moment, for health, metrics and the console."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.assembly import BatchRoom
from apportion.deployments.control.board import Board
from apportion.deployments.control.bulk_desk import BulkDesk
from apportion.deployments.control.callers import Callers
from apportion.deployments.control.exchanges import Exchanges
from apportion.deployments.control.feedback_desk import FeedbackDesk
from apportion.deployments.control.reconfiguration import Reconfiguration
from apportion.deployments.observability.metrics import Metrics

METRICS_AGE_S = 1.0  # what the database said may be told again for so long
CONSOLE_AGE_S = 1.0  # the ledger's numbers may be told again for so long


@dataclasses.dataclass(frozen=True)
class Parts:
    """Of the Router, that have numbers to tell."""

    room: BatchRoom
    reconfiguration: Reconfiguration
    exchanges: Exchanges
    callers: Callers
    bulk: BulkDesk
    feedback: FeedbackDesk


class Numbers:
    """Asks the parts."""

    def __init__(self, config: ServiceConfig, parts: Parts) -> None:
        self._parts = parts
        self._metrics = Metrics(config, parts.room.events)
        self._board = Board(time.time)
        if config.ingress.console:
            parts.room.events.subscribe(self._board.hear)

    @property
    def bridged(self) -> bool:
        """Whether Ray's own metrics are told as well."""
        return self._metrics.bridged

    async def state(self, max_age_s: float) -> dict[str, Any]:
        """Replicas, slots, queue, money, and how well the parts do.

        Args:
            max_age_s: what the database said may be told again for so long.
        """
        room, parts = self._parts.room, self._parts
        policy, scheduler, reservations = room.scheduler.policy, room.scheduler, room.reservations
        return {
            **reservations.fleet.describe(),
            "parts": room.parts() | {"predictor": parts.exchanges.predictor_state()},
            "rungs": dict(room.planner.rungs_used),
            "sessions": len(reservations.conversations),
            "turns": {turn.value: count for turn, count in reservations.conversations.turns.items()},
            "waiting": scheduler.waiting,
            "waiting_bulk": scheduler.waiting_bulk,
            "bulk": parts.bulk.describe(),
            "waiting_for_budget": scheduler.waiting_for_budget,
            "waiting_for_model": scheduler.waiting_for_model,
            "in_flight": reservations.fleet.in_flight,
            **await reservations.spending.statement(max_age_s),
            "budget_usd_per_request": policy.budget_usd_per_request,
            "saved_usd": reservations.savings.saved_usd,
            "max_seconds": policy.max_seconds,
            "latency_weight_per_s": policy.latency_weight_per_s,
            "cascade": parts.reconfiguration.cascade,
            "cascades": [f"{pair.first}>{pair.second}" for pair in policy.cascades],
            "strategy": policy.strategy.name,
            "policy_error": parts.reconfiguration.error,
            "keys_error": parts.callers.error(parts.reconfiguration.limits, parts.reconfiguration.concurrency_limits),
            "drift": room.drift.state(),
            "tokens_per_s": room.stopwatch.tokens_per_s(),
            "records": parts.feedback.records_state(),
            "in_auto": {model.name: not model.by_name_only for model in policy.models},
            "prices": {model.name: dataclasses.asdict(model.price) for model in policy.models},
        }

    async def metrics(self) -> bytes:
        """The metrics, as Prometheus reads them."""
        return self._metrics.text(await self.state(METRICS_AGE_S))

    async def console(self) -> dict[str, Any]:
        """What the console shows: the state, the last batches, what became of requests, and what waits for whom."""
        state = await self.state(CONSOLE_AGE_S)
        replicas = {name: {"model": one["model"], "breaker": one["breaker"]} for name, one in state["replicas"].items()}
        waiting = {"waiting_for": self._parts.exchanges.waiting_for()}
        return state | self._board.describe() | {"replicas": replicas} | waiting

    async def tell_ray(self) -> None:
        """Lets Ray's own metrics have the numbers."""
        self._metrics.tell_ray(await self.state(METRICS_AGE_S))
