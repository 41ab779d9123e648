"""An engine's answer on its way to the client, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import aiohttp

from apportion.deployments.ingress.attempt import Attempt
from apportion.deployments.ingress.client import Client
from apportion.deployments.ingress.coalescing import Coalescing
from apportion.deployments.wire.engine_headers import PASSED_ON
from apportion.deployments.wire.settlement import SETTLED_HEADER, Settled, SettledStream, cost_text, settled_of
from apportion.router.batch.messages import Ending

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Whole:
    """An answer that is there as a whole, and that nobody was sent yet."""

    status: int
    headers: Headers
    body: bytes

    def with_header(self, name: str, value: str) -> Whole:
        """The answer that says so."""
        others = [(other, told) for other, told in self.headers if other != name.encode()]
        return replace(self, headers=[*others, (name.encode(), value.encode())])

    async def give(self, client: Client) -> None:
        """Sends it."""
        if self.status >= 400:
            await client.refuse(self.status, self.headers, self.body)
        else:
            await client.answer(self.status, self.headers, self.body)


class Pipe:
    """Passes an answer on, and keeps a stream alive while its engine is silent.

    A stream's status and headers go out with its first bytes, or with the first comment that keeps it alive.

    Args:
        answer: the engine's, whose status and headers are there.
        reasons: headers that say why this engine answers, as of the moment.
        attempt: is told when the engine was heard, what the answer has cost, and how it ended.
        keep_alive_s: longest silence of a stream; None: as long as it likes.
        gap_s: between two chunks of a stream that go on; those that come faster go on together.
        cost_told: whether the client has asked what a stream costs.
        spent_usd: on another answer to the same request, of whose cost a whole answer's client is told, too.
    """

    def __init__(
        self,
        answer: aiohttp.ClientResponse,
        client: Client,
        reasons: Callable[[], Headers],
        attempt: Attempt,
        *,
        keep_alive_s: float | None,
        gap_s: float,
        cost_told: bool,
        spent_usd: float = 0.0,
    ) -> None:
        self._answer = answer
        self._client = client
        self._reasons = reasons
        self._attempt = attempt
        self._content_type = answer.headers.get("content-type", "application/json")
        self._streams = answer.status == 200 and self._content_type.startswith("text/event-stream")
        self._keep_alive_s = keep_alive_s if self._streams else None
        self._gap_s = gap_s
        self._cost_told = cost_told
        self._spent_usd = spent_usd

    async def next(self) -> bytes:
        """The next bytes of the answer; none at its end."""
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_s) as silence:
                    chunk: bytes = await self._answer.content.readany()
            except TimeoutError:
                if not silence.expired():
                    raise
                await self._begin_stream()
                await self._client.keep_alive()
            else:
                self._attempt.heard()
                return chunk

    async def run(self, first: bytes) -> None:
        """Passes all of it on, from the first bytes."""
        if self._streams:
            await self._stream(first)
        else:
            await (await self.whole(first)).give(self._client)

    async def whole(self, first: bytes) -> Whole:
        """All of an answer that is no stream, from the first bytes; nothing of it is sent."""
        attempt, status = self._attempt, self._answer.status
        headers = self._headers()
        attempt.settled = settled_of(self._answer.headers)
        if attempt.settled is not None:
            told = self._answer.headers[SETTLED_HEADER]
            if self._spent_usd:
                told = cost_text(attempt.settled.cost_usd + self._spent_usd)
            headers.append((SETTLED_HEADER.encode(), told.encode()))
        body = first + await self._answer.read()
        attempt.heard()
        attempt.ending, attempt.status = Ending.answered, status
        if status >= 400:
            attempt.settled = Settled(0.0, 0, 0)  # the engine refused it: nothing was generated
        return Whole(status, headers, body)

    async def _stream(self, chunk: bytes) -> None:
        await self._begin_stream()
        settled = SettledStream(told=self._cost_told)
        coalescing = Coalescing(self._answer.content, self._gap_s)
        while chunk:
            if passed := settled.passed(await coalescing.joined(chunk)):
                await self._client.chunk(passed)
            chunk = await self.next()
        self._attempt.settled, self._attempt.ending = settled.settled, Ending.answered
        self._attempt.status = self._answer.status
        await self._client.end()

    async def _begin_stream(self) -> None:
        await self._client.start_stream(self._answer.status, self._headers())

    def _headers(self) -> Headers:
        told = [(name, self._answer.headers.get(name)) for name in PASSED_ON]
        passed_on = [(name.encode(), value.encode()) for name, value in told if value is not None]
        return [(b"content-type", self._content_type.encode()), *self._reasons(), *passed_on]
