"""The Router's exchanges with its ingresses: what they hand over, and what they are told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.assembly import BatchRoom
from apportion.deployments.control.callers import Callers
from apportion.deployments.control.confirmations import Confirmations
from apportion.deployments.control.session import IngressSession
from apportion.router.batch.events import EndedUnserved
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.messages import Decision, Done, Ending, Refusal, Reply, Report, Told
from apportion.router.batch.money.spending import GRACE_S
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.batch.stages import second_id

logger = logging.getLogger(__name__)

POLL_S = 5.0  # an exchange answers by then, with or without verdicts
INGRESS_TTL_S = 30.0  # an ingress unheard of for so long is taken for dead; what it had in flight is charged and freed
SILENT_RUNNER_S = 10.0  # a runner as well: others wait for the slots of its rows; less than its desk knows it for


class Exchanges:
    """Keeps a session for each ingress.

    Args:
        router: the Router's incarnation.
        is_runner: whether the ingress of a name is one that runs jobs.
    """

    def __init__(
        self, config: ServiceConfig, router: str, room: BatchRoom, callers: Callers, is_runner: Callable[[str], bool]
    ) -> None:
        self._names = config.names
        self._longest_s = config.dispatch.request_timeout_s + GRACE_S
        self._router = router
        self._room = room
        self._callers = callers
        self._is_runner = is_runner
        self._confirmations = Confirmations(room.reservations.spending.flush)
        self._sessions: dict[str, IngressSession] = {}

    async def exchange(self, report: Report, wait: bool) -> Reply:
        """Takes the report, and answers with the verdicts that are ready.

        Args:
            wait: answer when there is a verdict (or after some seconds), not at once.

        Raises:
            UnavailableError: a newer router has taken over.
        """
        session = self._take(report)
        unknown = [request_id for request_id in report.waiting if not session.knows(request_id)]
        if wait:
            await session.wait(POLL_S)
        self._room.check_newest()  # what was decided or refused meanwhile is the newer one's to decide
        samples = self._room.scheduler.policy.strategy.needs_samples
        return session.reply(self._router, unknown, self._room.reservations.fleet.silent, samples=samples)

    def tell(self, entry: Entry, verdict: Told) -> None:
        """Lets the request's ingress have its verdict."""
        if isinstance(verdict, Decision):
            self._room.chronicle.decided(entry, verdict)
            if entry.item.resent and entry.item.first is None and verdict.second is None:
                self._room.reservations.release(second_id(entry.item.id))  # a lost router may have planned a cascade
        else:
            self._callers.leave(entry.item.id)
            if isinstance(verdict, Refusal):
                self._room.chronicle.refused(entry, verdict.error)
                self._release(entry)
        session = self._sessions.get(entry.ingress)
        if session is not None:
            session.tell(verdict)

    def _release(self, entry: Entry) -> None:
        """What was reserved for an undecided request: by a lost router, or with a cascade's first stage."""
        if entry.item.resent or entry.item.first is not None:
            self._room.reservations.release(entry.item.id)
        if entry.item.resent:
            self._room.reservations.release(second_id(entry.item.id))

    def predictor_state(self) -> BreakerState:
        """Whether the ingresses ask the predictor: as that which does worst with it."""
        states = {session.predictor for session in self._sessions.values()}
        worst_first = (BreakerState.open, BreakerState.half_open)
        return next((state for state in worst_first if state in states), BreakerState.closed)

    def waiting_for(self) -> dict[str, int]:
        """How many requests wait for each model that requests name."""
        waiting = Counter(
            entry.item.model for session in self._sessions.values() for entry in session.undecided.values()
        )
        return {name: count for name, count in waiting.items() if name is not None}

    async def forget_silent_replicas(self) -> None:
        """Drops engine replicas that are unheard of; the ingresses hear of it."""
        fleet = self._room.reservations.fleet
        known = fleet.silent
        if fleet.sweep():
            self._room.scheduler.wake()
        if fleet.silent != known:
            for session in self._sessions.values():
                session.wake()

    async def forget_silent_ingresses(self) -> None:
        """Frees what ingresses held that are gone, and what is in flight for longer than anything can be."""
        now_s = time.monotonic()
        for name, session in list(self._sessions.items()):
            ttl_s = SILENT_RUNNER_S if self._is_runner(name) else INGRESS_TTL_S
            if now_s - session.seen_s > ttl_s:
                if session.in_flight or session.undecided:
                    logger.warning("ingress %s is gone; freeing what it had in flight", name)
                self._give_up(session, list(session.in_flight), list(session.undecided))
                del self._sessions[name]
            elif overdue := session.overdue(self._longest_s):
                logger.warning("%d requests never ended; freeing what they hold", len(overdue))
                self._give_up(session, overdue, [])

    def _take(self, report: Report) -> IngressSession:
        session = self._sessions.get(report.ingress)
        if session is None:
            session = self._sessions[report.ingress] = IngressSession()
            if report.number > 1:  # what it has told another router counts there
                session.more_unserved(report.unserved)
        session.seen_s = time.monotonic()
        for held in report.held:
            if session.adopt(held.id, held.second):
                self._room.reservations.adopt(held)
                self._room.chronicle.adopted(held)
                if held.account.job is None:
                    self._callers.enter(held.id, held.account)
        self._end(session, report.done, report.cancelled)
        if more := session.more_unserved(report.unserved):
            self._room.events.publish(EndedUnserved(more))
        session.predictor = report.predictor
        if report.forecast is not None:
            forecast = report.forecast.of_models(self._names)
            for row, item in enumerate(report.items):
                if not session.knows(item.id):
                    self._accept(session, Entry(item, report.ingress, time.monotonic(), forecast, row))
        if report.done or report.cancelled:
            self._confirmations.add(session, report.number)
        return session

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
        self._room.scheduler.submit(entry)

    def _end(self, session: IngressSession, done: Sequence[Done], cancelled: Sequence[str]) -> None:
        scheduler, reservations = self._room.scheduler, self._room.reservations
        for end in done:
            session.end(end.id)
            self._callers.leave(end.id)
            self._room.chronicle.ended(end)
            reservations.settle(end)
            if end.busy_s > 0:
                asyncio.get_running_loop().call_later(end.busy_s, scheduler.wake)
        for request_id in cancelled:
            self._callers.leave(request_id)
            entry = session.undecided.pop(request_id, None)
            if entry is not None:
                scheduler.withdraw(entry)
                self._release(entry)
            else:
                # Decided while the cancel was on its way, perhaps by a lost router: no engine has seen it.
                session.in_flight.pop(request_id, None)
                reservations.release(request_id)
                reservations.release(second_id(request_id))
        if done or cancelled:
            scheduler.wake()

    def _give_up(self, session: IngressSession, in_flight: Sequence[str], undecided: Sequence[str]) -> None:
        ends = [Done(one, None, Ending.given_up, releases=session.unasked(one)) for one in in_flight]
        self._end(session, ends, undecided)
