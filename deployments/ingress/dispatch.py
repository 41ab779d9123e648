"""The data path: bytes between the client and the engine that the plan names, in one pooled connection each way.

Every decided request ends in exactly one `Done`, whether answered, failed or given up by its client. An engine that
cannot be reached, breaks or is late before the first byte costs the request another attempt; after it, the stream
ends with an error event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import aiohttp

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.config.service import DispatchConfig
from apportion.deployments.ingress.client import Client, StalledClientError
from apportion.deployments.ingress.connections import Connections, is_own_trouble
from apportion.deployments.ingress.link import RouterLink
from apportion.deployments.ingress.openai import ParsedRequest
from apportion.deployments.ingress.retries import RetryBudget, Suspects
from apportion.deployments.wire.engine_headers import engine_headers
from apportion.deployments.wire.headers import decision_headers, server_timing
from apportion.deployments.wire.settlement import (
    COMMENT_MAX_BYTES,
    LAST_EVENT_MAX_BYTES,
    SETTLED_HEADER,
    find_settled,
)
from apportion.router.batch.messages import Decision, Done, Ending
from apportion.router.errors import DeadlineError, UnavailableError

logger = logging.getLogger(__name__)

# Between tries to connect while this ingress itself has no means to; the seat is held meanwhile.
_OWN_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
# An engine that had a request for so long without a byte of answer has failed it if the request's own time is up.
LATE_S = 15.0
_LOSSES = frozenset({Ending.connection_lost, Ending.engine_failed})
_TAIL_BYTES = COMMENT_MAX_BYTES + LAST_EVENT_MAX_BYTES


class _EngineFailureError(Exception):
    """The engine gave no answer, or broke it off; the message is for the client."""

    ending = Ending.engine_failed  # of the attempt


@dataclass(slots=True)
class _Line:
    """A replica while requests of this ingress are on it: how many, and when the last byte came out of it."""

    attempts: int = 0
    heard_s: float = -math.inf


@dataclass(slots=True)
class _Attempt:
    """What becomes of a dispatched request: until the engine has done more, its client has given it up."""

    line: _Line
    begun_s: float = field(default_factory=lambda: _now_s())
    cost_usd: float | None = None
    ending: Ending = Ending.given_up
    begun_to_answer: bool = False
    lost: bool = False  # whether the replica was found to be silent to everybody
    reused: bool = False  # whether the connection had served another request before

    def heard(self) -> None:
        self.begun_to_answer = True
        self.line.heard_s = _now_s()

    def late(self) -> Ending:
        """How it ends when the engine's time is up: slow under load, or silent to everybody."""
        return Ending.late if self.line.heard_s > self.begun_s else Ending.engine_failed

    def lose(self, total: asyncio.Timeout) -> None:
        """The replica sends no heartbeats any more: its time is up."""
        self.lost = True
        if not total.expired():
            total.reschedule(_now_s())

    def out_of_time(self) -> None:
        """The request's own time is up; what its engine had for long without a byte is not its client's doing."""
        if self.ending is Ending.given_up and not self.begun_to_answer and _now_s() - self.begun_s > LATE_S:
            self.ending = self.late()


class Dispatcher:
    """Plans, sends, retries and settles requests.

    Args:
        link: the line to the router.
        config: time-outs and retries.
        timeouts: of models that have their own, by name.
    """

    def __init__(self, link: RouterLink, config: DispatchConfig, timeouts: Mapping[str, TimeoutsConfig]) -> None:
        self._link = link
        self._config = config
        self._timeouts = timeouts
        self._connections = Connections()
        self._lines: dict[str, _Line] = {}
        self._retries = RetryBudget(config.retry_share, time.monotonic)
        self._suspects = Suspects(time.monotonic)

    async def serve(self, parsed: ParsedRequest, path: str, client: Client, *, arrived_s: float | None = None) -> None:
        """Answers one request; upload, waiting, planning, attempts and generation all consume its time.

        Args:
            arrived_s: when the request came, by the event loop's clock; None: now.

        Raises:
            ApportionError: nothing has been sent to the client, and this is why nothing will be.
        """
        timeout_s = min(parsed.item.timeout_s, self._config.request_timeout_s)
        try:
            async with asyncio.timeout_at((arrived_s or _now_s()) + timeout_s) as deadline:
                await self._attempt(parsed, path, client, deadline)
        except StalledClientError:
            client.abort()
        except TimeoutError:
            if not deadline.expired():
                raise
            await client.fail(DeadlineError(f"no answer within {timeout_s:g} s; allow more, or ask for fewer tokens"))

    async def close(self) -> None:
        """Closes the pooled connections."""
        await self._connections.close()

    async def _attempt(self, parsed: ParsedRequest, path: str, client: Client, deadline: asyncio.Timeout) -> None:
        failed: list[Decision] = []
        losses = 0
        self._retries.request()
        while True:
            self._suspects.check(parsed.digest)
            left_s = (deadline.when() or 0.0) - _now_s()
            asked_s = time.perf_counter()
            decision = await self._link.plan(parsed.item.again(failed, left_s))
            planned_s = time.perf_counter() - asked_s
            try:
                await self._forward(decision, planned_s, parsed, path, client, deadline)
                self._suspects.answered(parsed.digest)
                return
            except _EngineFailureError as failure:
                logger.warning("request %s on replica %s: %s", decision.id, decision.replica, failure)
                failed.append(decision)
                if failure.ending in _LOSSES:
                    losses += 1
                    self._suspects.lost(parsed.digest(), decision.replica or "")
                # An engine that was lost may have died of this very request: it is tried on one more at most.
                over = client.started or len(failed) > self._config.retries or losses > 1
                if over or (failure.ending.worked and not self._retries.take()):
                    tried = f" ({len(failed)} replicas were tried)" if len(failed) > 1 else ""
                    await client.fail(UnavailableError(f"{failure}{tried}; send the request again"))
                    return

    async def _forward(
        self,
        decision: Decision,
        planned_s: float,
        parsed: ParsedRequest,
        path: str,
        client: Client,
        deadline: asyncio.Timeout,
    ) -> None:
        limits = self._timeouts.get(decision.model, self._config.engine_timeouts)
        async with self._attempted(decision) as attempt:
            try:
                async with asyncio.timeout(limits.total_s) as total:
                    self._link.watch(decision.id, partial(attempt.lose, total))
                    await self._exchange(decision, planned_s, parsed, path, client, attempt, limits)
            except asyncio.CancelledError:
                if deadline.expired():
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

    async def _exchange(
        self,
        decision: Decision,
        planned_s: float,
        parsed: ParsedRequest,
        path: str,
        client: Client,
        attempt: _Attempt,
        limits: TimeoutsConfig,
    ) -> None:
        sent_s = time.perf_counter()
        first_s = limits.first_token_s if parsed.stream else None
        async with contextlib.AsyncExitStack() as stack:  # leaving it ends the call, whatever it has come to
            try:
                async with asyncio.timeout(first_s) as patience:
                    answer = await self._call(decision, parsed, path, attempt, limits, stack)
                    first = await answer.content.readany()
                    attempt.heard()
            except TimeoutError as error:
                if not patience.expired():
                    raise
                attempt.ending = attempt.late()
                raise _EngineFailureError(f"no first token within {first_s:g} s") from error
            if answer.status >= 500:
                attempt.ending = Ending.engine_failed
                raise _EngineFailureError(f"the engine failed ({answer.status})")
            timing = server_timing(decision, planned_s, time.perf_counter() - sent_s)
            await _pipe(
                answer, first, [*decision_headers(decision, batch_told=parsed.batch_told), timing], attempt, client
            )

    async def _call(
        self,
        decision: Decision,
        parsed: ParsedRequest,
        path: str,
        attempt: _Attempt,
        limits: TimeoutsConfig,
        stack: contextlib.AsyncExitStack,
    ) -> aiohttp.ClientResponse:
        """The head of the engine's answer.

        Waits a while for what this ingress itself lacks. A kept connection that breaks before any byte tells only that
        the engine has closed it; a new one tells whether the engine is there.
        """
        body = parsed.engine_body(decision.model, decision.max_tokens)
        headers = engine_headers(decision, parsed.item.sequences)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s)
        session, waits_s = self._connections.pooled, iter(_OWN_WAITS_S)
        while True:
            call = session.post(
                f"{decision.url}{path}", data=body, headers=headers, timeout=timeout, trace_request_ctx=attempt
            )
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
    async def _attempted(self, decision: Decision) -> AsyncIterator[_Attempt]:
        replica = decision.replica or ""
        line = self._lines.setdefault(replica, _Line())
        line.attempts += 1
        attempt = _Attempt(line)
        try:
            yield attempt
        except _EngineFailureError as failure:
            failure.ending = attempt.ending
            raise
        finally:
            line.attempts -= 1
            if line.attempts == 0:
                del self._lines[replica]
            self._link.finish(Done(decision.id, attempt.cost_usd, attempt.ending))


async def _pipe(
    answer: aiohttp.ClientResponse, first: bytes, reasons: list[tuple[bytes, bytes]], attempt: _Attempt, client: Client
) -> None:
    content_type = answer.headers.get("content-type", "application/json")
    headers = [(b"content-type", content_type.encode()), *reasons]
    settled = answer.headers.get(SETTLED_HEADER)
    if settled is not None:
        attempt.cost_usd = float(settled)
        headers.append((SETTLED_HEADER.encode(), settled.encode()))
    if content_type.startswith("text/event-stream"):
        await client.start_stream(answer.status, headers)
        await _pipe_stream(answer, first, attempt, client)
        return
    body = first + await answer.read()
    attempt.heard()
    attempt.ending = Ending.answered
    if answer.status >= 400:
        attempt.cost_usd = 0.0  # the engine refused it: nothing was generated
        await client.refuse(answer.status, headers, body)
    else:
        await client.answer(answer.status, headers, body)


async def _pipe_stream(answer: aiohttp.ClientResponse, first: bytes, attempt: _Attempt, client: Client) -> None:
    await client.chunk(first)
    tail = first[-_TAIL_BYTES:]
    async for chunk in answer.content.iter_any():
        attempt.heard()
        await client.chunk(chunk)
        tail = (tail + chunk)[-_TAIL_BYTES:]
    attempt.cost_usd, attempt.ending = find_settled(tail), Ending.answered
    await client.end()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
