"""Chunks of a fast stream go on together: what a chunk costs here and at the proxy does not depend on its length."""

from __future__ import annotations

import asyncio

import aiohttp


class Coalescing:
    """Holds a stream to so many chunks a second; one that is no faster is not touched, nor is a first chunk or an end.

    Args:
        source: of the chunks.
        gap_s: between two chunks that go on.
    """

    def __init__(self, source: aiohttp.StreamReader, gap_s: float) -> None:
        self._source = source
        self._gap_s = gap_s
        self._loop = asyncio.get_running_loop()
        self._due_s = 0.0
        self._due: asyncio.Future[None] | None = None
        source.on_eof(self._wake)

    async def joined(self, chunk: bytes) -> bytes:
        """The chunk, and what follows it until the next one may go on."""
        if self._loop.time() < self._due_s and not self._source.is_eof():
            self._due = self._loop.create_future()
            timer = self._loop.call_at(self._due_s, self._wake)
            try:
                await self._due
            finally:
                timer.cancel()
            if self._source.exception() is None:  # else what is here goes on before it is raised
                chunk += self._source.read_nowait()
        self._due_s = self._loop.time() + self._gap_s
        return chunk

    def _wake(self) -> None:
        if self._due is not None and not self._due.done():
            self._due.set_result(None)
