"""The client's end of a request: what it was sent so far decides how an error can still be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apportion.deployments.wire.asgi import disconnected
from apportion.deployments.wire.errors import error_event, error_response
from apportion.router.errors import ApportionError

EVENT_END = b"\n\n"


class Client:
    """Sends an answer; an error becomes a status before the first byte, and an event of a stream after it."""

    def __init__(self, send: Send, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self._send = send
        self._headers = headers
        self._streaming = False
        self._tail = b""  # the last bytes of a stream
        self.started = False

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """The whole answer."""
        self.started = True
        headers = [*headers, *self._headers, (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Status and headers; `chunk` and `end` follow."""
        self.started = self._streaming = True
        headers = [*headers, *self._headers, (b"cache-control", b"no-cache")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def chunk(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-len(EVENT_END) :]
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        self._streaming = False
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: ApportionError) -> None:
        """Ends a stream that has begun with the error as an event; raises the error if nothing was sent."""
        if not self.started:
            raise error
        if self._streaming:
            # Half an event is ended first, so that the error is an event of its own.
            end = b"" if self._tail in {b"", EVENT_END} else EVENT_END
            await self.chunk(end + error_event(error))
            await self.end()


class ServedResponse(Response):
    """Serves a request inside the response, so that one place sees the answer, its errors, and a client that left.

    Args:
        serve: answers the client; raises an ApportionError only while nothing was sent.
        headers: of the answer, beside what is answered.
    """

    def __init__(
        self, serve: Callable[[Client], Coroutine[Any, Any, None]], headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__()
        self._serve = serve
        self._extra = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._serve(Client(send, self._extra)))
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
        if isinstance(error, ApportionError):
            await error_response(error)(scope, receive, send)
        elif error is not None:
            raise error
