"""The Router: owns the queue, the slots and the money; tells the ingresses where requests go.

One exchange with an ingress carries many requests, endings and verdicts; answers never pass through here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from apportion.deployments.cluster.nodes import node_address
from apportion.deployments.config.service import ServiceConfig, live_policy
from apportion.deployments.control.assembly import BatchRoom
from apportion.deployments.control.board import Board
from apportion.deployments.control.bulk_desk import BulkDesk
from apportion.deployments.control.callers import Callers
from apportion.deployments.control.confirmations import Confirmations
from apportion.deployments.control.housekeeping import Housekeeping
from apportion.deployments.control.remote import solve_by
from apportion.deployments.control.session import IngressSession
from apportion.deployments.control.sole import service_name
from apportion.deployments.observability.metrics import Metrics
from apportion.deployments.wire.bulk import BulkState, RunnerReport
from apportion.deployments.wire.channel import Address, Listener
from apportion.deployments.wire.feedback import Feedback
from apportion.deployments.wire.garbage import spare_what_is_loaded
from apportion.deployments.wire.listening import ANY_PORT
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.events import EndedUnserved, Events
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.messages import (
    Decision,
    Done,
    Ending,
    EngineReplica,
    Reply,
    Report,
    RouteItem,
    Verdict,
)
from apportion.router.batch.money.spending import GRACE_S
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.budget import Account
from apportion.router.errors import ConfigurationError, UnavailableError
from apportion.router.unpriced import Unpriced

if TYPE_CHECKING:
    from apportion.deployments.control.recording import Recording

logger = logging.getLogger(__name__)

POLL_S = 5.0  # an exchange answers by then, with or without verdicts
METRICS_AGE_S = 1.0  # what the database said may be told again for so long
CONSOLE_AGE_S = 1.0  # the ledger's numbers may be told again for so long
INGRESS_TTL_S = 30.0  # an ingress unheard of for so long is taken for dead; what it had in flight is charged and freed
SILENT_RUNNER_S = 10.0  # a runner as well: others wait for the slots of its rows; less than its desk knows it for


@serve.deployment(max_ongoing_requests=10_000)
class Router:
    """Decides for all ingresses; one replica, since slots and money have one owner."""

    def __init__(
        self,
        config: ServiceConfig,
        solver: DeploymentHandle,
        engines: dict[str, DeploymentHandle],
    ) -> None:
        log_to_serve()
        self._id = uuid.uuid4().hex
        self._config = config
        self._engines = engines  # held so that Serve deploys them; requests reach them over their own ports
        self._policy_error: str | None = None
        self._limits = () if config.budget is None else config.budget.limits
        self._sessions: dict[str, IngressSession] = {}
        self._room = BatchRoom(config, solve_by(solver), self._tell, service=service_name())
        for notice in self._room.knowledge.notices:
            logger.warning("%s", notice)
        self._metrics = Metrics(config, self._room.events)
        self._scheduler = self._room.scheduler
        self._reservations = self._room.reservations
        self._recording = _recording(config, self._id, self._room.events)
        self._board = Board(time.time)
        if config.ingress.console:
            self._room.events.subscribe(self._board.hear)
        self._desk = BulkDesk(config.names, self._reservations.fleet, self._reservations.spending, time.monotonic)
        self._room.events.subscribe(self._desk.speeds)
        self._callers = Callers(config, self._reservations.spending)
        self._listener = Listener(self.exchange, config.router.ports or ANY_PORT, "router.ports")
        self._confirmations = Confirmations(self._reservations.spending.flush)
        self._housekeeping = Housekeeping(
            {
                "keys": self._callers.refresh,
                "costs": self._charge_overdue,
                "replicas": self._forget_silent_replicas,
                "ingresses": self._forget_silent_ingresses,
            },
            {
                "ledger": self._reservations.spending.expire,
                "parts": self._room.try_parts,
                **({"metrics": self._tell_ray} if self._metrics.bridged else {}),
            },
        )
        spare_what_is_loaded()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """A new policy for the batches to come; nothing restarts. What it leaves out is as the configuration has it.

        What is planned, reserved and dispatched from now on costs its prices; what is in flight keeps its price.
        Where a field is wrong the old policy stays and `state` says why: Serve would stop a router that raises here.
        """
        try:
            live = live_policy(user_config, self._config)
        except ConfigurationError as error:
            logger.error("the policy stays as it was: %s", error.message)
            self._policy_error = error.message
            return
        self._policy_error = None
        budget = self._config.budget
        if budget is not None:
            self._limits = budget.limits if live.limits is None else live.limits
            self._reservations.spending.set_limits(limit.limit() for limit in self._limits)
        self._scheduler.policy = self._room.policy(live)

    def check_health(self) -> None:
        """Raises: UnavailableError: what is due every second is not done, or a newer router has taken over."""
        self._housekeeping.check()
        self._check_newest()

    def __del__(self) -> None:
        if hasattr(self, "_listener"):
            self._listener.close()
        if hasattr(self, "_reservations"):  # else it is what has failed
            self._reservations.spending.close()
            if self._recording is not None:
                self._recording.close()

    async def address(self) -> Address:
        """Where `exchange` is called, over a connection of its own: a call through Serve costs six times as much."""
        return await self._listener.start(self._config.router.host or node_address())

    async def exchange(self, report: Report, wait: bool) -> Reply:
        """An ingress hands over what is new and what has ended, and gets the verdicts that are ready.

        What was handed over before is not taken twice, so a report may be sent again when its reply was lost.

        Args:
            wait: answer when there is a verdict (or after some seconds), not at once.
        """
        self._housekeeping.start()
        session = self._sessions.get(report.ingress)
        if session is None:
            session = self._sessions[report.ingress] = IngressSession()
            if report.number > 1:  # what it has told another router counts there
                session.more_unserved(report.unserved)
        session.seen_s = time.monotonic()
        for held in report.held:
            if session.adopt(held.id):
                self._reservations.adopt(held)
                self._room.chronicle.adopted(held)
                if held.account.job is None:
                    self._callers.enter(held.id, held.account)
        self._end(session, report.done, report.cancelled)
        if more := session.more_unserved(report.unserved):
            self._room.events.publish(EndedUnserved(more))
        session.predictor = report.predictor
        if report.forecast is not None:
            forecast = report.forecast.of_models(self._config.names)
            for row, item in enumerate(report.items):
                if not session.knows(item.id):
                    self._accept(session, Entry(item, report.ingress, time.monotonic(), forecast, row))
        unknown = [request_id for request_id in report.waiting if not session.knows(request_id)]
        if report.done or report.cancelled:
            self._confirmations.add(session, report.number)
        if wait:
            await session.wait(POLL_S)
        self._check_newest()  # what it has decided or refused meanwhile is the newer one's to decide
        samples = self._scheduler.policy.strategy.needs_samples
        return session.reply(self._id, unknown, self._reservations.fleet.silent, samples=samples)

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
        return await self._desk.told(report, self._scheduler.bulk_policy.prices)

    async def secret(self) -> bytes:
        """What ingresses name answers with, so that their callers can say what they think of them.

        Raises:
            UnavailableError: there are no records, or they cannot be reached.
        """
        if self._recording is None:
            raise UnavailableError("this router keeps no records; a deploy is changing that")
        return await self._recording.secret()

    async def feedback(self, account: Account, said: Feedback) -> None:
        """Keeps what a caller says of one of its answers.

        Raises:
            RateLimitError: it says too much.
            UnavailableError: it cannot be kept.
        """
        self._callers.admit_feedback(account)
        if self._recording is None:
            raise UnavailableError("this router keeps no records; a deploy is changing that")
        self._recording.feedback(said)
        self._room.drift.feedback(said)

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
        """Numbers of the moment: replicas, slots, queue, money, and how well the parts do.

        Args:
            max_age_s: what the database said may be told again for so long.
        """
        policy = self._scheduler.policy
        return {
            **self._reservations.fleet.describe(),
            "parts": self._room.parts() | {"predictor": self._predictor_state()},
            "rungs": dict(self._room.planner.rungs_used),
            "sessions": len(self._reservations.conversations),
            "turns": {turn.value: count for turn, count in self._reservations.conversations.turns.items()},
            "waiting": self._scheduler.waiting,
            "waiting_bulk": self._scheduler.waiting_bulk,
            "bulk": self._desk.describe(),
            "waiting_for_budget": self._scheduler.waiting_for_budget,
            "in_flight": self._reservations.fleet.in_flight,
            **await self._reservations.spending.statement(max_age_s),
            "budget_usd_per_request": policy.budget_usd_per_request,
            "saved_usd": self._reservations.savings.saved_usd,
            "strategy": policy.strategy.name,
            "policy_error": self._policy_error,
            "keys_error": self._callers.error(self._limits),
            "drift": self._room.drift.state(),
            "records": None if self._recording is None else self._recording.state(),
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
        waiting = Counter(
            entry.item.model for session in self._sessions.values() for entry in session.undecided.values()
        )
        named = {name: count for name, count in waiting.items() if name is not None}
        return state | self._board.describe() | {"replicas": replicas, "waiting_for": named}

    def _predictor_state(self) -> BreakerState:
        """Whether the ingresses ask the predictor: as that which does worst with it."""
        states = {session.predictor for session in self._sessions.values()}
        worst_first = (BreakerState.open, BreakerState.half_open)
        return next((state for state in worst_first if state in states), BreakerState.closed)

    def _check_newest(self) -> None:
        if self._reservations.spending.superseded:
            raise UnavailableError("a newer router has taken over; this one decides nothing more")

    def _accept(self, session: IngressSession, entry: Entry) -> None:
        item = entry.item
        session.undecided[item.id] = entry
        if item.bulk:  # its job was admitted; rates and what is in flight are of interactive requests
            pass
        elif item.resent or item.earlier:  # it was admitted before
            self._callers.enter(item.id, item.account)
        elif (refusal := self._callers.refusal(item.id, item.account)) is not None:
            self._room.chronicle.refused(entry, refusal.error)
            session.tell(refusal)
            return
        self._scheduler.submit(entry)

    def _tell(self, entry: Entry, verdict: Verdict) -> None:
        if isinstance(verdict, Decision):
            self._room.chronicle.decided(entry, verdict)
        else:
            self._room.chronicle.refused(entry, verdict.error)
            self._callers.leave(entry.item.id)
            if entry.item.resent:
                self._reservations.release(entry.item.id)  # what a lost router may have reserved for it
        session = self._sessions.get(entry.ingress)
        if session is not None:
            session.tell(verdict)

    def _end(self, session: IngressSession, done: Sequence[Done], cancelled: Sequence[str]) -> None:
        for end in done:
            session.end(end.id)
            self._callers.leave(end.id)
            self._room.chronicle.ended(end)
            self._reservations.settle(end)
            if end.busy_s > 0:
                asyncio.get_running_loop().call_later(end.busy_s, self._scheduler.wake)
        for request_id in cancelled:
            self._callers.leave(request_id)
            entry = session.undecided.pop(request_id, None)
            if entry is not None:
                self._scheduler.withdraw(entry)
            if entry is None or entry.item.resent:
                # Decided while the cancel was on its way, or by a lost router: no engine has seen it.
                session.in_flight.pop(request_id, None)
                self._reservations.release(request_id)
        if done or cancelled:
            self._scheduler.wake()

    async def _tell_ray(self) -> None:
        self._metrics.tell_ray(await self.state(METRICS_AGE_S))

    async def _charge_overdue(self) -> None:
        self._reservations.charge_overdue()

    async def _forget_silent_replicas(self) -> None:
        fleet, known = self._reservations.fleet, self._reservations.fleet.silent
        if fleet.sweep():
            self._scheduler.wake()
        if fleet.silent != known:
            for session in self._sessions.values():
                session.wake()

    async def _forget_silent_ingresses(self) -> None:
        now_s, longest_s = time.monotonic(), self._config.dispatch.request_timeout_s + GRACE_S
        for name, session in list(self._sessions.items()):
            ttl_s = SILENT_RUNNER_S if self._desk.knows(name) else INGRESS_TTL_S
            if now_s - session.seen_s > ttl_s:
                if session.in_flight or session.undecided:
                    logger.warning("ingress %s is gone; freeing what it had in flight", name)
                self._give_up(session, list(session.in_flight), list(session.undecided))
                del self._sessions[name]
            elif overdue := session.overdue(longest_s):
                logger.warning("%d requests never ended; freeing what they hold", len(overdue))
                self._give_up(session, overdue, [])

    def _give_up(self, session: IngressSession, in_flight: Sequence[str], undecided: Sequence[str]) -> None:
        self._end(session, [Done(one, None, Ending.given_up) for one in in_flight], undecided)


def _recording(config: ServiceConfig, router: str, events: Events) -> Recording | None:
    """What keeps records, where they are kept; only then does it take the time and memory that pyarrow does."""
    if config.records is None:
        return None
    from apportion.deployments.control.recording import Recording

    return Recording(config.records, router, events)
