"""The data path: bytes between the client and the engine that the plan names, in one pooled connection each way.

Every decided request ends in exactly one `Done`, whether answered, failed or given up by its client. An engine that
cannot be reached, breaks or is late before the first byte of its answer costs the request another attempt; after it,
the stream ends with an error event.

The answer of a cascade's first stage is held back until the router has heard how sure its model was; whatever goes
wrong from then on, the client gets that answer.

A stream whose engine has taken it and is silent is kept alive with comments. Its status and headers go out with the
first of them, so a later attempt stays on the model that they name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import aiohttp

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.config.service import DispatchConfig
from apportion.deployments.ingress.attempt import Attempt, Line, now_s
from apportion.deployments.ingress.client import Client, StalledClientError
from apportion.deployments.ingress.connections import Connections, is_own_trouble
from apportion.deployments.ingress.link import RouterLink
from apportion.deployments.ingress.openai import ParsedRequest
from apportion.deployments.ingress.pipe import Pipe, Whole
from apportion.deployments.ingress.retries import RetryBudget, Suspects
from apportion.deployments.ingress.tracing.trace import NO_TRACE, Trace
from apportion.deployments.wire.engine_headers import busy_of, engine_headers
from apportion.deployments.wire.headers import HEADER_PREFIX, decision_headers, name_headers, server_timing
from apportion.deployments.wire.settlement import Settled
from apportion.router.batch.messages import CLIENT_GONE, Decision, Ending, RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.batch.stages import FirstAnswer
from apportion.router.errors import ApportionError, DeadlineError, OverloadedError, UnavailableError
from apportion.router.unpriced import Unpriced
from apportion.router.variants import model_of

logger = logging.getLogger(__name__)

# Between tries to connect while this ingress itself has no means to; the seat is held meanwhile.
_OWN_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
MAX_BUSY = 5  # times that a request comes to replicas that take no more; then other models are asked, if any may
_WORD_S = 5.0  # for the router's word on a cascade's first answer
_TO_GIVE_S = 0.25  # before a request's time is up, a first answer that is held back goes out
_LOSSES = frozenset({Ending.connection_lost, Ending.engine_failed})


class _EngineFailureError(Exception):
    """The engine gave no answer, or broke it off; the message is for the client."""

    last = True  # whether the request is not tried again


class _EngineBusyError(Exception):
    """Whoever answers behind the replica takes no more for now; the request waits for it, or goes elsewhere."""


@dataclass(slots=True)
class _First:
    """The answer of a cascade's first stage.

    Args:
        second: where the second model is asked, and how long that took to decide; None: nowhere.
    """

    answer: Whole
    attempt: Attempt
    second: tuple[Decision, float] | None = None


@dataclass(slots=True)
class _Job:
    """A request, the path that engines answer it at, and the client who waits until the deadline.

    Args:
        arrived_s: when the request came, by the event loop's clock.
        trace: is told what becomes of it.
        failed: attempts so far that came to nothing.
        busy: models whose replicas took no more, one an attempt.
        busy_s: for how long the last of them did not.
        losses: engines that may have died of it.
        forecast: what is expected of it; None: nobody was asked yet.
        first: a cascade's first answer, which is given if there is no better one; None: there is none.
        patience: ends a cascade's second stage in time for that.
        told: whether the router is told how the request ended.
    """

    parsed: ParsedRequest
    path: str
    client: Client
    deadline: asyncio.Timeout
    arrived_s: float
    trace: Trace
    failed: list[Decision] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    busy_s: float = 0.0
    losses: int = 0
    forecast: Unpriced | None = None
    first: _First | None = None
    patience: asyncio.Timeout | None = None
    told: bool = False

    @property
    def attempts(self) -> int:
        """All that have ended."""
        return len(self.failed) + len(self.busy) + (self.first is not None)

    @property
    def last_call_s(self) -> float:
        """By the event loop's clock, when a first answer has to be given."""
        return (self.deadline.when() or 0.0) - _TO_GIVE_S


class Dispatcher:
    """Forecasts, plans, sends, retries and settles requests.

    Args:
        link: the line to the router.
        forecast: what is expected of a request.
        config: time-outs and retries.
        timeouts: of models that have their own, by name.
        signals: share of requests whose engines are asked how sure the model was.
    """

    def __init__(
        self,
        link: RouterLink,
        forecast: Callable[[RouteItem, Prompt], Awaitable[Unpriced]],
        config: DispatchConfig,
        timeouts: Mapping[str, TimeoutsConfig],
        signals: float = 0.0,
    ) -> None:
        self._link = link
        self._forecast = forecast
        self._config = config
        self._timeouts = timeouts
        self._signals = signals
        self._connections = Connections()
        self._lines: dict[str, Line] = {}
        self._retries = RetryBudget(config.retry_share, time.monotonic)
        self._suspects = Suspects(time.monotonic)

    async def serve(
        self,
        parsed: ParsedRequest,
        path: str,
        client: Client,
        *,
        arrived_s: float | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """Answers one request; upload, prediction, waiting, planning, attempts and generation all consume its time.

        Args:
            arrived_s: when the request came, by the event loop's clock; None: now.
            trace: is told what becomes of it.

        Raises:
            ApportionError: nothing has been sent to the client, and this is why nothing will be.
        """
        timeout_s, arrived_s = min(parsed.item.timeout_s, self._config.request_timeout_s), arrived_s or now_s()
        try:
            async with asyncio.timeout_at(arrived_s + timeout_s) as deadline:
                job = _Job(parsed, path, client, deadline, arrived_s, trace)
                with self._link.unserved.counted(lambda: job.told, deadline):
                    await self._attempt(job)
        except StalledClientError:
            client.abort()
        except ApportionError as error:
            await client.fail(error)
        except TimeoutError:
            if not deadline.expired():
                raise
            await client.fail(DeadlineError(f"no answer within {timeout_s:g} s; allow more, or ask for fewer tokens"))
        finally:
            if client.failure is not None:
                trace.failed(client.failure)

    async def close(self) -> None:
        """Closes the pooled connections."""
        await self._connections.close()

    async def _attempt(self, job: _Job) -> None:
        parsed = job.parsed
        self._retries.request()
        while True:
            self._suspects.check(parsed.digest)
            asked_s = time.perf_counter()
            decision = await job.trace.planned(parsed.item, self._plan(job))
            planned_s = time.perf_counter() - asked_s
            try:
                await self._forward(job, decision, planned_s)
                if job.first is not None:
                    await self._second_stage(job, job.first)
                self._suspects.answered(parsed.digest)
                return
            except _EngineBusyError:
                logger.info("request %s: replica %s takes no more", decision.id, decision.replica)
                job.busy.append(model_of(decision.model))
            except _EngineFailureError as failure:
                logger.warning("request %s on replica %s: %s", decision.id, decision.replica, failure)
                if failure.last:
                    tried = f" ({len(job.failed)} replicas were tried)" if len(job.failed) > 1 else ""
                    await job.client.fail(UnavailableError(f"{failure}{tried}; send the request again"))
                    return

    async def _second_stage(self, job: _Job, first: _First) -> None:
        """Asks the second model if the router has said so, and sees to it that the client has an answer."""
        if first.second is None:
            return
        try:
            async with asyncio.timeout_at(job.last_call_s) as patience:
                job.patience = patience
                await self._forward(job, *first.second)
                return
        except (_EngineBusyError, _EngineFailureError) as failure:
            logger.info("request %s: its first answer is given: %s", job.parsed.item.id, failure)
        except TimeoutError:
            if not patience.expired():
                raise
        await first.answer.give(job.client)

    async def _weigh(self, job: _Job, first: _First) -> None:
        """Has the router decide whether a first answer is kept; gives it then, and wherever there is no word in time.

        The first attempt ends only then, so that records say what became of it.
        """
        attempt, second, settled = first.attempt, first.attempt.decision.second, first.attempt.settled
        if second is not None and settled is not None and settled.signals is not None and job.forecast is not None:
            answer = FirstAnswer(attempt.decision.model, second, settled.signals)
            item = job.parsed.item.second_stage(answer, job.last_call_s - now_s(), job.attempts)
            asked_s = time.perf_counter()
            try:
                async with asyncio.timeout_at(min(job.last_call_s, now_s() + _WORD_S)) as patience:
                    told = await self._link.plan_second(item, job.forecast)
            except ApportionError as error:
                logger.info("request %s: its first answer is given: %s", item.id, error.message)
            except TimeoutError:
                if not patience.expired():
                    raise
            else:
                if isinstance(told, Decision):
                    attempt.escalated, attempt.status = True, None
                    first.second = told, time.perf_counter() - asked_s
                    return
                if told.success is not None:
                    first.answer = first.answer.with_header(f"{HEADER_PREFIX}success", f"{told.success:.4f}")
        await first.answer.give(job.client)

    async def _plan(self, job: _Job) -> Decision:
        """Where the request goes: it is predicted once, however many attempts there are, and then the router says."""
        item = job.parsed.item
        if job.forecast is None:
            self._link.check(item.account)
            began_s = time.perf_counter()
            job.forecast = await self._forecast(item, job.parsed.prompt)
            item = replace(item, predict_s=time.perf_counter() - began_s)
        left_s = (job.deadline.when() or 0.0) - now_s()
        avoided = tuple(dict.fromkeys(job.busy)) if len(job.busy) >= MAX_BUSY else ()
        try:
            return await self._link.plan(item.again(job.failed, left_s, len(job.busy), avoided), job.forecast)
        except UnavailableError:
            if not avoided:
                raise
            raise OverloadedError(
                f"{', '.join(avoided)} cannot take more requests for now; try again in {job.busy_s:.1f} s",
                retry_after_s=job.busy_s,
            ) from None

    def _tries_again(self, job: _Job, attempt: Attempt) -> bool:
        """Whether a request goes to another engine after this attempt, which has failed."""
        job.failed.append(attempt.decision)
        if attempt.ending in _LOSSES:
            job.losses += 1
            self._suspects.lost(job.parsed.digest(), attempt.decision.replica or "")
        # An engine that was lost may have died of this very request: it is tried on one more at most.
        if job.client.answered or len(job.failed) > self._config.retries or job.losses > 1:
            return False
        return not attempt.ending.worked or self._retries.take()

    async def _forward(self, job: _Job, decision: Decision, planned_s: float) -> None:
        async with self._attempted(job, decision, planned_s) as attempt:
            limits = attempt.limits
            try:
                async with asyncio.timeout(limits.total_s) as total:
                    self._link.watch(decision.id, partial(attempt.lose, total))
                    await self._exchange(job, attempt)
            except asyncio.CancelledError:
                if job.deadline.expired():
                    attempt.out_of_time()
                raise
            except aiohttp.ServerTimeoutError as error:
                attempt.ending = Ending.no_connection
                raise _EngineFailureError(f"the engine took no connection within {limits.connect_s:g} s") from error
            except aiohttp.ClientConnectionError as error:
                if is_own_trouble(error):
                    attempt.ending = Ending.own_trouble
                    raise _EngineFailureError("this ingress can make no connection to an engine now") from error
                # Refused after a reused connection broke: it was there, and may have begun.
                refused = isinstance(error, aiohttp.ClientConnectorError) and not attempt.reused
                attempt.ending = Ending.unreachable if refused else Ending.connection_lost
                raise _EngineFailureError("the engine cannot be reached") from error
            except aiohttp.ClientError as error:
                attempt.ending = Ending.engine_failed
                raise _EngineFailureError("the engine broke off before the answer was complete") from error
            except TimeoutError as error:
                if not total.expired():
                    raise
                if attempt.lost:
                    attempt.ending = Ending.connection_lost
                    raise _EngineFailureError("the engine has fallen silent") from error
                attempt.ending = attempt.late()
                raise _EngineFailureError(f"the engine did not finish within {limits.total_s:g} s") from error
            if job.first is not None and job.first.attempt is attempt:
                self._link.unwatch(decision.id)
                await self._weigh(job, job.first)

    async def _exchange(self, job: _Job, attempt: Attempt) -> None:
        sent_s = time.perf_counter()
        parsed, decision = job.parsed, attempt.decision
        before = None if job.first is None else job.first.attempt
        first = None if before is None else before.decision
        first_s = attempt.limits.first_token_s if parsed.stream else None

        def reasons() -> list[tuple[bytes, bytes]]:
            timing = server_timing(decision, attempt.planned_s, time.perf_counter() - sent_s)
            why = decision_headers(decision, batch_told=parsed.batch_told, first=first)
            return [*why, timing, *name_headers(parsed.item.id)]

        async with contextlib.AsyncExitStack() as stack:  # leaving it ends the call, whatever it has come to
            try:
                async with asyncio.timeout(first_s) as patience:
                    answer = await self._call(job, attempt, stack)
                    pipe = Pipe(
                        answer,
                        job.client,
                        reasons,
                        attempt,
                        keep_alive_s=self._config.keep_alive_s,
                        gap_s=self._config.chunk_gap_ms / 1e3,
                        cost_told=parsed.cost_told,
                        spent_usd=0.0 if before is None else before.cost_usd or 0.0,
                    )
                    beginning = await pipe.next()
            except TimeoutError as error:
                if not patience.expired():
                    raise
                attempt.ending = attempt.late()
                raise _EngineFailureError(f"no first token within {first_s:g} s") from error
            if (busy_s := busy_of(answer.headers)) is not None:
                attempt.ending, attempt.busy_s, job.busy_s = Ending.busy, busy_s, busy_s
                raise _EngineBusyError
            if answer.status >= 500:
                attempt.ending = Ending.engine_failed
                raise _EngineFailureError(f"the engine failed ({answer.status})")
            if before is not None and answer.status != 200:
                attempt.ending, attempt.settled = Ending.answered, Settled(0.0, 0, 0)
                raise _EngineFailureError(f"the second model refused it ({answer.status})")
            if decision.second is not None and answer.status == 200:
                job.first = _First(await pipe.whole(beginning), attempt)
            else:
                await pipe.run(beginning)

    async def _call(self, job: _Job, attempt: Attempt, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """The head of the engine's answer.

        Waits a while for what this ingress itself lacks. A kept connection that breaks before any byte tells only that
        the engine has closed it; a new one tells whether the engine is there.
        """
        decision, url = attempt.decision, f"{attempt.decision.url}{job.path}"
        body = job.parsed.engine_body(decision.model, decision.max_tokens)
        weighed = decision.second is not None or job.parsed.item.row_second not in (None, decision.model)
        signals_asked = weighed or random.random() < self._signals
        asked = engine_headers(decision, job.parsed.item.sequences, signals_asked=signals_asked)
        headers = {**attempt.carried, **asked}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=attempt.limits.connect_s)
        session, waits_s = self._connections.pooled, iter(_OWN_WAITS_S)
        while True:
            call = session.post(url, data=body, headers=headers, timeout=timeout, trace_request_ctx=attempt)
            try:
                return await stack.enter_async_context(call)
            except aiohttp.ClientConnectionError as error:
                wait_s = next(waits_s, None) if is_own_trouble(error) else None
                if wait_s is not None:
                    attempt.ending = Ending.own_trouble
                    await asyncio.sleep(wait_s)
                    attempt.ending = Ending.given_up
                elif attempt.reused and session is self._connections.pooled:
                    session = self._connections.fresh
                else:
                    raise

    @contextlib.asynccontextmanager
    async def _attempted(self, job: _Job, decision: Decision, planned_s: float) -> AsyncIterator[Attempt]:
        replica = decision.replica or ""
        line = self._lines.setdefault(replica, Line())
        line.attempts += 1
        limits = self._timeouts.get(decision.model, self._config.engine_timeouts)
        attempt = Attempt(decision, limits, planned_s, line, job.attempts)
        # The status that the request ends with if a cascade's second stage comes to nothing.
        spare = None if job.first is None else job.first.answer.status
        try:
            with job.trace.attempted(attempt, stream=job.parsed.stream):
                yield attempt
        except _EngineBusyError:
            attempt.status = spare
            raise
        except _EngineFailureError as failure:
            if spare is None:
                failure.last = not self._tries_again(job, attempt)
            attempt.status = UnavailableError.status if spare is None and failure.last else spare
            raise
        except (asyncio.CancelledError, StalledClientError):
            attempt.status = DeadlineError.status if job.deadline.expired() else CLIENT_GONE
            if job.patience is not None and job.patience.expired():
                attempt.status = spare
            raise
        finally:
            job.told = attempt.status is not None
            line.attempts -= 1
            if line.attempts == 0:
                del self._lines[replica]
            self._link.finish(attempt.done(job.arrived_s, job.parsed.known_digest))
