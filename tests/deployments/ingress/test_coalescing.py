"""Chunks of fast streams go on together; nobody waits for a first one, an end, or the chunks of a slow stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from apportion.deployments.ingress.client import Client
from apportion.router.batch.messages import Ending
from tests.deployments.ingress.dispatching import PATH, Browser, StubLink, dispatching, parsed, serving, streaming

Events = Callable[[], AsyncIterator[bytes]]
CHUNKS = [f"data: {i}\n\n".encode() for i in range(40)]


def every(pause_s: float) -> Events:
    async def events() -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            await asyncio.sleep(pause_s)

    return events


@contextlib.asynccontextmanager
async def browsing(events: Events, chunk_gap_ms: float) -> AsyncIterator[tuple[Browser, StubLink, asyncio.Task[None]]]:
    """A client that reads the stream, which runs while the context lasts."""
    browser = Browser()
    async with serving(streaming(events)) as engine:
        link = StubLink(engine.url)
        async with dispatching(link, chunk_gap_ms=chunk_gap_ms) as dispatcher:
            client = Client(browser.send, path=PATH)
            task = asyncio.create_task(dispatcher.serve(parsed(stream=True), PATH, client))
            try:
                yield browser, link, task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def test_what_comes_fast_goes_on_together_and_in_order() -> None:
    async with browsing(every(0.005), 50) as (browser, link, task):
        await task
    assert browser.body == b"".join(CHUNKS)
    assert browser.pieces[0] == CHUNKS[0]
    assert len(browser.pieces) < len(CHUNKS) / 2
    assert [done.ending for done in link.done] == [Ending.answered]


@pytest.mark.parametrize(("pause_s", "chunk_gap_ms"), [(0.03, 10), (0.005, 0)])
async def test_what_comes_slowly_goes_on_as_it_comes_and_so_does_all_where_nothing_is_to_be_held(
    pause_s: float, chunk_gap_ms: float
) -> None:
    async with browsing(every(pause_s), chunk_gap_ms) as (browser, _, task):
        await task
    assert len([piece for piece in browser.pieces if piece]) > len(CHUNKS) * 0.8


async def test_nobody_waits_for_the_first_chunk_or_for_the_end() -> None:
    seen = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await seen.wait()
        yield b"data: 2\n\n"
        yield b"data: 3\n\n"

    async with browsing(events, 1000) as (browser, _, task), asyncio.timeout(0.9):
        await browser.first_byte.wait()
        assert browser.body == b"data: 1\n\n"
        seen.set()
        await task
    assert browser.pieces == [b"data: 1\n\n", b"data: 2\n\ndata: 3\n\n", b""]


async def test_what_is_held_when_the_engine_breaks_off_goes_on_before_the_error() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await asyncio.sleep(0.05)
        yield b"data: 2\n\n"
        await asyncio.sleep(0.05)
        raise ConnectionError("gone")

    async with browsing(events, 300) as (browser, link, task):
        await task
    assert browser.body.startswith(b"data: 1\n\ndata: 2\n\n")
    assert b'"error"' in browser.body
    assert [done.ending for done in link.done] == [Ending.engine_failed]


async def test_a_client_that_leaves_while_chunks_are_held_ends_the_request() -> None:
    async def events() -> AsyncIterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            await asyncio.sleep(0.05)

    async with browsing(events, 1000) as (browser, link, task):
        await browser.first_byte.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert browser.pieces == [CHUNKS[0]]
    assert [done.ending for done in link.done] == [Ending.given_up]
