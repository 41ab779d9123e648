"""An ingress's line to the router: many requests in one exchange, so that control costs a batch, not a request.

At most one exchange waits at the router for verdicts and at most one more carries news there; what arrives in
between goes with the next. A router that has restarted is told again what waits and what is in flight; where a reply
was lost unnoticed, its verdicts are asked for and its endings are told once more.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from contextvars import Context
from dataclasses import dataclass, replace
from typing import cast

from apportion.deployments.ingress.endings import Endings
from apportion.deployments.ingress.unserved import Unserved
from apportion.router.assignment.options import checked_strategy
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.guards.cancellation import is_cancelled
from apportion.router.batch.messages import (
    Decision,
    Done,
    Ending,
    Held,
    Refusal,
    Reply,
    Report,
    RouteItem,
    RoutingAsk,
    Told,
)
from apportion.router.batch.stages import Kept
from apportion.router.budget import Account
from apportion.router.errors import ApportionError, UnavailableError
from apportion.router.unpriced import Unpriced, concatenate

logger = logging.getLogger(__name__)

Exchange = Callable[[Report, bool], Awaitable[Reply]]

UNSERVED_S = 1.0  # numbers, for whoever watches
COALESCE_S = 0.002  # news that no one waits for goes together
ENDINGS_S = 0.02  # endings, while nothing here waits for what they free: mostly they go with the next request
RETRY_S = 0.25  # after a failed exchange; the router may be restarting
PATIENCE_S = 60.0  # with a router that does not answer; Serve restarts one within some ten seconds
KEEPALIVE_S = 5.0
LATE_S = 10.0  # twice the router's longest wait: a verdict, or the word that an ending has arrived, may be lost
PARTING_S = 5.0  # for the last words of an ingress that stops
PARTING_PERIOD_S = 0.05
LONGEST_REFUSAL_S = 5.0  # keys may be given more meanwhile
MAX_REFUSED = 1_000  # accounts that are remembered before those that are refused no more are forgotten
MAX_GIVEN_UP = 10_000  # requests remembered, in case that they are decided after all
EXCHANGE_TIMEOUT_S = 10.0  # the router answers within POLL_S; a call that takes longer is lost, or the router hangs


@dataclass(slots=True)
class _Pending:
    """A request that waits for its verdict; `asked_s` is when the router was last told of it or asked for it.

    Its forecast stays with it: a router that has restarted is told that again, and nobody predicts anew.
    """

    item: RouteItem
    forecast: Unpriced
    verdict: asyncio.Future[Told]
    asked_s: float


class RouterLink:
    """Asks for verdicts and tells endings.

    Args:
        exchange: the router's `exchange`.
        predictor: whether this ingress asks the predictor, which the router is told.
        name: by which the router knows it; None: one of its own.
    """

    def __init__(
        self,
        exchange: Exchange,
        predictor: Callable[[], BreakerState] = lambda: BreakerState.closed,
        name: str | None = None,
    ) -> None:
        self._exchange = exchange
        self._predictor = predictor
        self._told_predictor = BreakerState.closed
        self._name = uuid.uuid4().hex if name is None else name
        self._router: str | None = None
        self._pending: dict[str, _Pending] = {}
        self._new: dict[str, tuple[RouteItem, Unpriced]] = {}
        self._refused: dict[Account, tuple[float, ApportionError]] = {}  # whose requests the router refuses until then
        self._samples = False
        self._late: tuple[str, ...] = ()
        self._endings = Endings()
        self.unserved = Unserved(lambda: self._flush_soon(UNSERVED_S))
        self._unserved_told = 0
        self._given_up: dict[str, None] = {}
        self._held: dict[str, Held] = {}  # decided, not yet done
        self._on_silence: dict[str, Callable[[], None]] = {}
        self._tell_held = False
        self._waiting: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_due_s = 0.0
        self._keepalive: asyncio.Task[None] | None = None
        self._silent_since_s: float | None = None

    def check(self, account: Account) -> None:
        """Raises: OverloadedError: the router would refuse the account's request now, so nobody works on it before."""
        until_s, error = self._refused.get(account, (0.0, None))
        if error is not None and time.monotonic() < until_s:
            raise copy.copy(error)  # each its own: an error that is raised keeps the frames that it went through

    async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
        """Where the request goes.

        Raises:
            ApportionError: why it goes nowhere.
            CancelledError: the caller gave up; its seat is freed.
        """
        return cast(Decision, await self._ask(item, forecast))  # only second stages are told anything else

    async def plan_second(self, item: RouteItem, forecast: Unpriced) -> Decision | Kept:
        """What becomes of a cascade's second stage; raises as `plan` does, and then it holds no money either."""
        return await self._ask(item, forecast)

    async def _ask(self, item: RouteItem, forecast: Unpriced) -> Decision | Kept:
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._pending[item.id] = _Pending(item, forecast, future, time.monotonic())
        self._new[item.id] = item, forecast
        self._flush_soon()
        try:
            verdict = await future
        except asyncio.CancelledError:
            self._give_up(item.id, future)
            raise
        if isinstance(verdict, Refusal):
            raise verdict.error
        return verdict

    def watch(self, request_id: str, on_silence: Callable[[], None]) -> None:
        """Calls once if the replica that a decided request is on falls silent before `finish`.

        The router takes 10 to 11 s without heartbeats for silence; it is heard of here at once while an exchange waits
        for verdicts, else within KEEPALIVE_S.
        """
        self._on_silence[request_id] = on_silence

    def unwatch(self, request_id: str) -> None:
        """The replica has nothing more to say about the request, which is not finished yet."""
        self._on_silence.pop(request_id, None)

    def finish(self, done: Done) -> None:
        """A decided request has ended; its slot and money are settled."""
        self._held.pop(done.id, None)
        self._on_silence.pop(done.id, None)
        self._endings.done.append(done)
        self._flush_soon(COALESCE_S if self._pending else ENDINGS_S)

    async def close(self) -> None:
        """Gives up what waits, tells the router what it has not been told, and ends the line."""
        tasks = [task for task in (self._keepalive, self._waiting, self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._endings.again(math.inf)
        self._endings.cancelled.extend(self._pending)
        try:
            async with asyncio.timeout(PARTING_S):
                while self._endings.unconfirmed or self._has_counts:
                    report = self._endings.report(self._name, time.monotonic())
                    reply = await self._exchange(replace(report, unserved=dict(self.unserved.totals)), False)
                    self._endings.confirm(reply.settled)
                    self._unserved_told = self.unserved.totals.total()
                    if self._endings.unconfirmed:
                        await asyncio.sleep(PARTING_PERIOD_S)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            logger.warning("it is not known that the last endings are in the ledger: %s", type(error).__name__)

    def _give_up(self, request_id: str, future: asyncio.Future[Told]) -> None:
        self._pending.pop(request_id, None)
        if future.done() and not future.cancelled() and isinstance(future.result(), Decision):
            self.finish(_unsent(future.result()))  # decided in the same turn
            return
        untold = self._new.pop(request_id, None)
        if untold is None or untold[0].resent or untold[0].first is not None:
            self._cancel(request_id)
            self._flush_soon(COALESCE_S)

    def _cancel(self, request_id: str) -> None:
        self._endings.cancelled.append(request_id)
        self._given_up[request_id] = None
        if len(self._given_up) > MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _flush_soon(self, delay_s: float = 0.0) -> None:
        if self._keepalive is None:
            self._keepalive = asyncio.create_task(self._keep_alive(), context=Context())
        if self._waiting is not None:
            delay_s = max(delay_s, COALESCE_S)  # a batch is being planned: gather company for the next
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        # In a context of its own: with a client that leaves, Serve cancels what was called in its request's context,
        # and an exchange carries many requests.
        self._timer, self._timer_due_s = loop.call_at(due_s, self._flush, context=Context()), due_s

    def _flush(self) -> None:
        self._timer = None
        if self._pending and self._waiting is None:
            self._waiting = asyncio.create_task(self._run(wait=True))
        elif (self._has_news or self._has_counts) and self._telling is None:
            self._telling = asyncio.create_task(self._run(wait=False))

    @property
    def _has_news(self) -> bool:
        news = self._new or self._endings.news or self._tell_held or self._late
        return bool(news) or self._predictor() is not self._told_predictor

    @property
    def _has_counts(self) -> bool:
        return self.unserved.totals.total() != self._unserved_told

    async def _run(self, *, wait: bool) -> None:
        told = self._predictor()
        report = replace(
            self._endings.report(self._name, time.monotonic()),
            items=tuple(item for item, _ in self._new.values()),
            forecast=self._forecast(self._new.values()),
            predictor=told,
            held=tuple(self._held.values()) if self._tell_held else (),
            waiting=self._late,
            unserved=dict(self.unserved.totals),
        )
        self._new, self._late, self._tell_held = {}, (), False
        verdicts: tuple[Told, ...] = ()
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                reply = await self._exchange(report, wait)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            await self._after_failure(error)
        else:
            verdicts, self._told_predictor = reply.verdicts, told
            self._unserved_told = sum(report.unserved.values())
            self._after_reply(reply)
        if wait:
            self._waiting = None
        else:
            self._telling = None
        for verdict in verdicts:
            self._deliver(verdict)
        if self._pending or self._has_news:
            self._flush_soon()
        elif self._has_counts:
            self._flush_soon(UNSERVED_S)

    def _forecast(self, new: Collection[tuple[RouteItem, Unpriced]]) -> Unpriced | None:
        """Of all new requests; with samples, where one of them is planned by them."""
        if not new:
            return None
        samples = self._samples or any(_needs_samples(item.ask) for item, _ in new)
        return concatenate([forecast for _, forecast in new]).brief(samples=samples)

    def _deliver(self, verdict: Told) -> None:
        pending = self._pending.pop(verdict.id, None)
        if pending is not None and isinstance(verdict, Refusal):
            self._refuse(pending.item.account, verdict)
        if pending is not None and not pending.verdict.done():
            if isinstance(verdict, Decision) and verdict.replica is not None:
                self._held[verdict.id] = Held(
                    verdict.id,
                    verdict.model,
                    verdict.replica,
                    pending.item.sequences,
                    verdict.cost_usd,
                    pending.item.account,
                    None if verdict.second is None else verdict.second.id,
                    verdict.most_tokens,
                )
            pending.verdict.set_result(verdict)
        elif isinstance(verdict, Decision) and verdict.id in self._given_up:
            # Its cancel may have arrived before it did: this frees the seat, and twice does no harm.
            self._endings.done.append(_unsent(verdict))

    def _refuse(self, account: Account, refusal: Refusal) -> None:
        """The account's next requests are refused without asking, for as long as the router says."""
        now_s = time.monotonic()
        if refusal.holds_s > 0:
            self._refused[account] = now_s + min(refusal.holds_s, LONGEST_REFUSAL_S), refusal.error
        if len(self._refused) > MAX_REFUSED:
            self._refused = {key: one for key, one in self._refused.items() if one[0] > now_s}

    def _after_reply(self, reply: Reply) -> None:
        self._silent_since_s = None
        self._samples = reply.samples
        if self._router is not None and reply.router != self._router:
            # A new router that answered what the old one was not asked: it knows nothing of the rest.
            self._resend(decided={verdict.id for verdict in reply.verdicts})
        self._router = reply.router
        self._endings.confirm(reply.settled)
        if reply.silent:
            self._give_up_on(reply.silent)
        for request_id in reply.unknown:
            pending = self._pending.get(request_id)
            if pending is not None and not pending.verdict.done():
                self._new.setdefault(request_id, (replace(pending.item, resent=True), pending.forecast))

    def _give_up_on(self, silent: Collection[str]) -> None:
        for held in [one for one in self._held.values() if one.replica in silent]:
            on_silence = self._on_silence.pop(held.id, None)
            if on_silence is not None:
                on_silence()

    def _resend(self, *, decided: Collection[str] = ()) -> None:
        self._endings.again(math.inf)
        self._tell_held = bool(self._held)
        waiting = {key: one for key, one in self._pending.items() if not one.verdict.done()}
        self._new = {
            key: self._new.get(key) or (replace(one.item, resent=True), one.forecast)
            for key, one in waiting.items()
            if key not in decided
        }

    async def _after_failure(self, error: BaseException) -> None:
        """The router did not answer: it forgot what waits (or is about to), so all of it is sent again."""
        now_s = time.monotonic()
        self._silent_since_s = self._silent_since_s or now_s
        reason = error.message if isinstance(error, ApportionError) else type(error).__name__
        logger.warning("no answer from the router for %.1f s: %s", now_s - self._silent_since_s, reason)
        if now_s - self._silent_since_s > PATIENCE_S:
            failure = UnavailableError("the router does not answer; try again in some seconds", retry_after_s=5.0)
            for request_id, pending in self._pending.items():
                if not pending.verdict.done():
                    pending.verdict.set_result(Refusal(request_id, failure))
                self._cancel(request_id)
            self._pending.clear()
        await asyncio.sleep(RETRY_S)
        self._resend()

    async def _keep_alive(self) -> None:
        """Long streams say nothing for minutes; the router must not take this ingress for dead meanwhile.

        What should have been heard of by now is asked for: its reply may have gone to an exchange that nobody reads.
        """
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            self._ask_for_late(time.monotonic())
            silent = self._waiting is None and bool(self._held or self._endings.unconfirmed)
            if self._telling is None and (silent or self._has_news):
                self._telling = asyncio.create_task(self._run(wait=False))

    def _ask_for_late(self, now_s: float) -> None:
        self._endings.again(now_s - LATE_S)
        late = [one for one in self._pending.values() if one.asked_s < now_s - LATE_S]
        for pending in late:
            pending.asked_s = now_s
        self._late = tuple(pending.item.id for pending in late)


def _needs_samples(ask: RoutingAsk) -> bool:
    return ask.strategy is not None and checked_strategy(ask.strategy, ask.options).needs_samples


def _unsent(decision: Told) -> Done:
    """The end of a request that was decided when nobody waited for it any more."""
    second = decision.second if isinstance(decision, Decision) else None
    return Done(decision.id, None, Ending.unsent, releases=None if second is None else second.id)
