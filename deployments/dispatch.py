"""The data path: bytes between the client and the engine that the plan names, in one pooled connection each way.

Every decided request ends in exactly one `Done`, whether answered, failed or given up by its client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import aiohttp
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deployments.asgi import disconnected
from deployments.config import DispatchConfig
from deployments.explain import decision_headers, server_timing
from deployments.http_errors import engine_error, error_event, error_response
from deployments.link import RouterLink
from deployments.messages import Decision, Done
from deployments.openai import ParsedRequest
from deployments.settlement import COMMENT_MAX_BYTES, SETTLED_HEADER, find_settled
from router.errors import ApportionError, DeadlineError, UnavailableError

logger = logging.getLogger("ray.serve")

_TAIL_BYTES = COMMENT_MAX_BYTES + len("data: [DONE]\n\n")


class _ReplicaUnreachableError(Exception):
    """No byte of the request's answer was received."""


class Dispatcher:
    """Plans, sends and settles requests.

    Args:
        link: the line to the router.
        config: time-outs and retries.
    """

    def __init__(self, link: RouterLink, config: DispatchConfig) -> None:
        self._link = link
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def serve(self, parsed: ParsedRequest, path: str, send: Send) -> None:
        """Answers one request, all of it within its deadline.

        Raises:
            ApportionError: nothing has been sent to the client yet, and this is why nothing will be.
        """
        try:
            async with asyncio.timeout(self._config.request_timeout_s) as deadline:
                for attempt in range(self._config.retries + 1):
                    asked_s = time.perf_counter()
                    decision = await self._link.plan(parsed.item.again(attempt))
                    planned_s = time.perf_counter() - asked_s
                    with contextlib.suppress(_ReplicaUnreachableError):
                        await self._forward(decision, planned_s, parsed, path, send)
                        return
        except TimeoutError:
            if deadline.expired():
                raise DeadlineError(
                    f"no answer within {self._config.request_timeout_s:g} s; try again or ask for fewer tokens"
                ) from None
            raise
        raise UnavailableError(
            f"{self._config.retries + 1} engine replicas could not be reached; try again in some seconds"
        )

    async def close(self) -> None:
        """Closes the pooled connections."""
        if self._session is not None:
            await self._session.close()

    async def _forward(
        self, decision: Decision, planned_s: float, parsed: ParsedRequest, path: str, send: Send
    ) -> None:
        async with self._seat(decision) as seat:
            sent_s = time.perf_counter()
            request = self._client().post(
                f"{decision.url}{path}",
                data=parsed.engine_body(decision.model),
                headers={"content-type": "application/json"},
            )
            try:
                answer = await request
            except aiohttp.ClientConnectionError as error:
                seat.lost_replica = True
                seat.worked = not isinstance(error, aiohttp.ClientConnectorError)
                logger.warning("replica %s cannot be reached: %r", decision.replica, error)
                raise _ReplicaUnreachableError from error
            timing = server_timing(decision, planned_s, time.perf_counter() - sent_s)
            async with answer:
                await _pipe(answer, [*decision_headers(decision), timing], seat, send)

    @contextlib.asynccontextmanager
    async def _seat(self, decision: Decision) -> AsyncIterator[_Seat]:
        seat = _Seat()
        try:
            yield seat
        finally:
            self._link.finish(Done(decision.id, seat.cost_usd, seat.worked, seat.lost_replica))

    def _client(self) -> aiohttp.ClientSession:
        # Made on first use: a session belongs to the event loop that it is used in.
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout_s)
            connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=["user-agent"]
            )
        return self._session


class _Seat:
    """What became of a dispatched request."""

    __slots__ = ("cost_usd", "lost_replica", "worked")

    def __init__(self) -> None:
        self.cost_usd: float | None = None
        self.worked = True
        self.lost_replica = False


async def _pipe(answer: aiohttp.ClientResponse, reasons: list[tuple[bytes, bytes]], seat: _Seat, send: Send) -> None:
    content_type = answer.headers.get("content-type", "application/json")
    headers = [(b"content-type", content_type.encode()), *reasons]
    settled = answer.headers.get(SETTLED_HEADER)
    if settled is not None:
        seat.cost_usd = float(settled)
        headers.append((SETTLED_HEADER.encode(), settled.encode()))
    if content_type.startswith("text/event-stream"):
        await _pipe_stream(answer, headers, seat, send)
        return
    try:
        body = await answer.read()
    except aiohttp.ClientError as error:
        raise UnavailableError("the engine broke off before the answer was complete; try again") from error
    if answer.status >= 400:
        seat.cost_usd = 0.0  # the engine refused it: nothing was generated
        body = engine_error(answer.status, body)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _pipe_stream(
    answer: aiohttp.ClientResponse, headers: list[tuple[bytes, bytes]], seat: _Seat, send: Send
) -> None:
    headers.append((b"cache-control", b"no-cache"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    tail = b""
    try:
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            tail = (tail + chunk)[-_TAIL_BYTES:]
    except aiohttp.ClientError as error:
        # The status is sent, so the break is told as an event; the end of the stream stays well-formed.
        seat.lost_replica = isinstance(error, aiohttp.ClientConnectionError)
        broken = UnavailableError("the engine broke off in the middle of the answer; send the request again")
        await send({"type": "http.response.body", "body": error_event(broken), "more_body": True})
    else:
        seat.cost_usd = find_settled(tail)
    await send({"type": "http.response.body", "body": b""})


class RoutedResponse(Response):
    """Serves a request inside the response, so that one place sees the answer, its errors, and a client that left."""

    def __init__(self, dispatcher: Dispatcher, parsed: ParsedRequest, path: str) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._parsed = parsed
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._dispatcher.serve(self._parsed, self._path, send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if not work.cancelled():
            await self._answer_errors(work, scope, receive, send)

    async def _answer_errors(self, work: asyncio.Task[None], scope: Scope, receive: Receive, send: Send) -> None:
        error = work.exception()
        if error is None:
            return
        if not isinstance(error, ApportionError):
            raise error
        await error_response(error)(scope, receive, send)
