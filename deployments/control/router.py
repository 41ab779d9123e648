"""The Router: owns the queue, the slots and the money; tells the ingresses where requests go.

One exchange with an ingress carries many requests, endings and verdicts; answers never pass through here.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from apportion.deployments.cluster.nodes import node_address
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.assembly import BatchRoom
from apportion.deployments.control.bulk_desk import BulkDesk
from apportion.deployments.control.callers import Callers
from apportion.deployments.control.exchanges import Exchanges
from apportion.deployments.control.feedback_desk import FeedbackDesk
from apportion.deployments.control.housekeeping import Housekeeping
from apportion.deployments.control.numbers import Numbers, Parts
from apportion.deployments.control.reconfiguration import Reconfiguration
from apportion.deployments.control.remote import solve_by
from apportion.deployments.control.sole import service_name
from apportion.deployments.control.waker import Waker
from apportion.deployments.wire.bulk import BulkState, RunnerReport
from apportion.deployments.wire.channel import Address, Listener
from apportion.deployments.wire.feedback import Feedback
from apportion.deployments.wire.garbage import spare_what_is_loaded
from apportion.deployments.wire.listening import ANY_PORT
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.messages import EngineReplica, Reply, Report, RouteItem, Verdict
from apportion.router.budget import Account
from apportion.router.unpriced import Unpriced

logger = logging.getLogger(__name__)


@serve.deployment(max_ongoing_requests=10_000)
class Router:
    """Decides for all ingresses; one replica, since slots and money have one owner."""

    def __init__(
        self,
        config: ServiceConfig,
        solver: DeploymentHandle,
        engines: dict[str, DeploymentHandle],
        sleepers: dict[str, DeploymentHandle],
    ) -> None:
        log_to_serve()
        router = uuid.uuid4().hex
        self._config = config
        self._engines = engines  # held so that Serve deploys them; requests reach them over their own ports
        self._waker = Waker(sleepers)
        self._room = BatchRoom(
            config,
            solve_by(solver),
            lambda entry, verdict: self._exchanges.tell(entry, verdict),
            service=service_name(),
        )
        for notice in self._room.knowledge.notices:
            logger.warning("%s", notice)
        self._reservations = self._room.reservations
        self._scheduler = self._room.scheduler
        self._callers = Callers(config, self._reservations.spending)
        self._bulk = BulkDesk(
            config.model_names,
            self._reservations.fleet,
            self._reservations.spending,
            self._room.stopwatch,
            time.monotonic,
        )
        self._feedback = FeedbackDesk(config, router, self._room, self._callers)
        self._exchanges = Exchanges(config, router, self._room, self._callers, self._bulk.knows)
        self._reconfiguration = Reconfiguration(config, self._room)
        self._numbers = Numbers(
            config,
            Parts(self._room, self._reconfiguration, self._exchanges, self._callers, self._bulk, self._feedback),
        )
        self._listener = Listener(self.exchange, config.router.ports or ANY_PORT, "router.ports")
        self._housekeeping = Housekeeping(
            {
                "keys": self._callers.refresh,
                "costs": self._charge_overdue,
                "replicas": self._exchanges.forget_silent_replicas,
                "ingresses": self._exchanges.forget_silent_ingresses,
                "sleepers": self._wake_models,
            },
            {
                "ledger": self._reservations.spending.expire,
                "parts": self._room.try_parts,
                **({"metrics": self._numbers.tell_ray} if self._numbers.bridged else {}),
            },
        )
        spare_what_is_loaded()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new policy for the batches to come; nothing restarts.

        What is planned, reserved and dispatched from now on costs its prices; what is in flight keeps its price.
        """
        self._reconfiguration.apply(user_config)

    def check_health(self) -> None:
        """Raises: UnavailableError: what is due every second is not done, or a newer router has taken over."""
        self._housekeeping.check()
        self._room.check_newest()

    def __del__(self) -> None:
        if hasattr(self, "_listener"):
            self._listener.close()
        if hasattr(self, "_reservations"):  # else it is what has failed
            self._reservations.spending.close()
        if hasattr(self, "_feedback"):
            self._feedback.close()

    async def address(self) -> Address:
        """Where `exchange` is called, over a connection of its own: a call through Serve costs six times as much."""
        return await self._listener.start(self._config.router.host or node_address())

    async def exchange(self, report: Report, wait: bool) -> Reply:
        """An ingress hands over what is new and what has ended, and gets the verdicts that are ready.

        What was handed over before is not taken twice, so a report may be sent again when its reply was lost.

        Args:
            wait: answer when there is a verdict (or after some seconds), not at once.

        Raises:
            UnavailableError: a newer router has taken over.
        """
        self._housekeeping.start()
        return await self._exchanges.exchange(report, wait)

    async def admit_plans(self, account: Account, planned: int) -> None:
        """Counts so many requests that are to be planned and not run, before anybody works on them.

        Raises:
            RateLimitError: their caller asks for too many.
        """
        self._callers.check_rates(account, planned)

    async def route(self, items: Sequence[RouteItem], forecast: Unpriced) -> list[Verdict]:
        """Plans the items, which were admitted, as one batch with all slots free; reserves and runs nothing."""
        first = items[0]
        self._callers.enter_within(first.id, first.account)
        try:
            return await self._scheduler.preview(items, forecast.of_models(self._config.names))
        finally:
            self._callers.leave(first.id)

    async def bulk(self, report: RunnerReport) -> BulkState:
        """A runner of jobs says how they stand, and hears what they may have.

        Raises:
            LedgerError: the database does not answer.
        """
        policy = self._scheduler.bulk_policy
        return await self._bulk.told(report, policy.prices, cascade=bool(policy.cascades))

    async def secret(self) -> bytes:
        """What ingresses name answers with, so that their callers can say what they think of them.

        Raises:
            UnavailableError: there are no records, or they cannot be reached.
        """
        return await self._feedback.secret()

    async def feedback(self, account: Account, said: Feedback) -> None:
        """Keeps what a caller says of one of its answers.

        Raises:
            RateLimitError: it says too much.
            UnavailableError: it cannot be kept.
        """
        self._feedback.take(account, said)

    async def announce(self, replica: EngineReplica, costs_usd: Mapping[str, float] | None = None) -> tuple[str, ...]:
        """An engine replica's heartbeat.

        Args:
            costs_usd: what requests have cost that it was asked for, by their ids.

        Returns:
            Requests that have ended there without telling their cost: it is asked for them until it tells.
        """
        self._housekeeping.start()
        self._reservations.told(replica.id, costs_usd or {})
        if self._reservations.fleet.announce(replica):
            self._scheduler.wake()
        return self._reservations.asked_of(replica.id)

    async def state(self, max_age_s: float = 0.0) -> dict[str, Any]:
        """Numbers of the moment.

        Args:
            max_age_s: what the database said may be told again for so long.
        """
        return await self._numbers.state(max_age_s)

    async def metrics(self) -> bytes:
        """The metrics, as Prometheus reads them."""
        return await self._numbers.metrics()

    async def console(self) -> dict[str, Any]:
        """What the console shows."""
        return await self._numbers.console()

    async def _wake_models(self) -> None:
        self._waker.ask(self._scheduler.wanted)

    async def _charge_overdue(self) -> None:
        self._reservations.charge_overdue()
