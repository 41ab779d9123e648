"""The client's end of a request: what it was sent so far decides how an error can still be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from apportion.deployments.wire.asgi import abort_of, until_gone
from apportion.deployments.wire.errors import engine_error, error_response, style_of
from apportion.router.errors import ApportionError

EVENT_END = b"\n\n"
KEEP_ALIVE = b": keep-alive\n\n"  # an SSE comment, which clients skip
FAREWELL_S = 1.0  # for a client that reads to learn why its stream ends


class StalledClientError(Exception):
    """The client takes nothing of what is there for it."""


class Client:
    """Sends an answer; an error becomes a status before the first byte, and an event of a stream after it.

    `started`: status and headers are sent. `answered`: so is a part of the answer itself, and no engine is asked again.
    `failure`: why there is no answer, or no whole one; None: nothing is known against it.

    Args:
        send: ASGI's.
        headers: of every answer, beside what is answered.
        path: of the endpoint that was asked, whose clients know errors in a style of their own.
        abort: closes the connection at once.
        stall_s: a client that lets a send wait for so long is given up with a `StalledClientError`; None: never.
        on_answer: called before the first byte of the answer.
    """

    def __init__(
        self,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        path: str = "",
        abort: Callable[[], None] = lambda: None,
        stall_s: float | None = None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._to_client = send
        self._style = style_of(path)
        self._headers = headers
        self.abort = abort
        self._stall_s = stall_s
        self._on_answer = on_answer
        self._streaming = False
        self._tail = b""  # the last bytes of a stream
        self._events = 0
        self.started = False
        self.answered = False
        self.failure: ApportionError | None = None

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """The whole answer."""
        self._answer()
        self.started = True
        headers = [*headers, *self._headers, (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, status: int, headers: list[tuple[bytes, bytes]], said: bytes) -> None:
        """The engine's refusal, whose status stays; of a stream that has begun, its last event."""
        if self.started:
            await self.fail(engine_error(status, said))
            return
        body = json.dumps(self._style.body(engine_error(status, said)), separators=(",", ":"))
        await self.answer(status, headers, body.encode())

    async def start_stream(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Status and headers, unless they are sent already; `chunk` and `end` follow."""
        if self.started:
            return
        self.started = self._streaming = True
        headers = [*headers, *self._headers, (b"cache-control", b"no-cache")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def keep_alive(self) -> None:
        """A sign of life in a stream that has begun; none within an event."""
        if self._between_events:
            await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    async def chunk(self, data: bytes) -> None:
        """A part of the answer."""
        if not self.answered:
            self._answer()
        self._events += (self._tail[-1:] + data).count(EVENT_END)
        self._tail = (self._tail + data)[-len(EVENT_END) :]
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        self._streaming = False
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: ApportionError) -> None:
        """Ends a stream that has begun with the error as an event; raises the error if nothing was sent.

        A client that does not read it is cut off.
        """
        self.failure = error
        if not self.started:
            raise error
        try:
            async with asyncio.timeout(FAREWELL_S):
                if self._streaming:
                    # Half an event is ended first, so that the error is an event of its own.
                    end = b"" if self._between_events else EVENT_END
                    await self.chunk(end + self._style.event(error, self._events))
                    await self.end()
        except (TimeoutError, StalledClientError):
            self.abort()

    @property
    def _between_events(self) -> bool:
        return self._tail in {b"", EVENT_END}

    def _answer(self) -> None:
        self._on_answer()
        self.answered = True

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall_s) as patience:
                await self._to_client(message)
        except TimeoutError:
            if not patience.expired():
                raise
            raise StalledClientError from None


class HeldResponse(Response):
    """Answers with a response that something is held for until it is sent, however that ends.

    Args:
        make: makes the response, and gives back what is held.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Response]]) -> None:
        super().__init__()
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._make() as response:
            await response(scope, receive, send)


class ServedResponse(Response):
    """Serves a request inside the response, so that one place sees the answer, its errors, and a client that left.

    Args:
        serve: answers the client; raises an ApportionError only while nothing was sent.
        headers: of the answer, beside what is answered.
        stall_s: as `Client`'s, and so is `on_answer`.
    """

    def __init__(
        self,
        serve: Callable[[Client], Coroutine[Any, Any, None]],
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        stall_s: float | None = None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._serve = serve
        self._extra = headers
        self._stall_s = stall_s
        self._on_answer = on_answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(
            send,
            self._extra,
            path=scope.get("path", ""),
            abort=abort_of(receive),
            stall_s=self._stall_s,
            on_answer=self._on_answer,
        )
        work = await until_gone(self._serve(client), receive)
        if not work.cancelled():
            await self._answer_errors(work, scope, receive, send)

    async def _answer_errors(self, work: asyncio.Task[None], scope: Scope, receive: Receive, send: Send) -> None:
        error = work.exception()
        if isinstance(error, ApportionError):
            await error_response(error, scope.get("path", ""))(scope, receive, send)
        elif error is not None:
            raise error
