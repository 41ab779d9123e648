"""Why there is no answer: the ingress's own trouble, a kept connection, an engine that is busy, or one that is dead."""

import asyncio
import contextlib
import dataclasses
import os
import resource
from collections.abc import AsyncIterator, Iterator

import pytest

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.ingress.client import Client
from apportion.router.batch.messages import Decision, Ending, RouteItem
from apportion.router.errors import DeadlineError, UnavailableError
from apportion.router.unpriced import Unpriced
from tests.deployments.ingress.dispatching import PATH, Browser, StubLink, dispatching, parsed, serving, simulated

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class OneReplica(StubLink):
    """Every request goes to the same replica."""

    async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
        decision = await super().plan(item, forecast)
        return dataclasses.replace(decision, replica="the-one")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No new descriptor can be had while it lasts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number is the limit: every number below it is taken.
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def answering_once(*, then_listen: bool) -> AsyncIterator[str]:
    """An engine that answers the first request of each connection, and closes it when a second comes."""
    tasks = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        for request in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if request == 0:
                writer.write(ANSWER)
                await writer.drain()
        if not then_listen:
            engine.close()
        writer.close()

    engine = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with engine:
        yield f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"


async def test_an_ingress_without_descriptors_waits_for_one_and_blames_no_engine() -> None:
    async with serving(simulated()) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            with no_descriptors():
                work = asyncio.create_task(dispatcher.serve(parsed(), PATH, Client(client.send)))
                await asyncio.sleep(0.3)
                assert not work.done()
            await work
    assert client.status == 200
    assert [done.ending for done in link.done] == [Ending.answered]


async def test_an_ingress_that_gets_no_descriptor_in_time_says_so_and_costs_nothing(monkeypatch) -> None:
    monkeypatch.setattr("apportion.deployments.ingress.dispatch._OWN_WAITS_S", (0.01,))
    async with serving(simulated()) as engine:
        link = StubLink(engine.url)
        async with dispatching(link, retries=1) as dispatcher:
            with no_descriptors(), pytest.raises(UnavailableError, match="this ingress can make no connection"):
                await dispatcher.serve(parsed(), PATH, Client(Browser().send))
    assert [done.ending for done in link.done] == [Ending.own_trouble, Ending.own_trouble]
    assert not Ending.own_trouble.failed
    assert not Ending.own_trouble.worked


async def test_a_kept_connection_that_breaks_is_no_dead_replica() -> None:
    async with answering_once(then_listen=True) as url:
        link = StubLink(url)
        async with dispatching(link) as dispatcher:
            for _ in range(3):
                client = Browser()
                await dispatcher.serve(parsed(), PATH, Client(client.send))
                assert client.status == 200
    assert [done.ending for done in link.done] == [Ending.answered] * 3


async def test_a_kept_connection_whose_engine_is_gone_was_lost_with_the_request() -> None:
    async with answering_once(then_listen=False) as url:
        link = StubLink(url)
        async with dispatching(link, retries=0) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(Browser().send))
            with pytest.raises(UnavailableError):
                await dispatcher.serve(parsed(), PATH, Client(Browser().send))
    assert [done.ending for done in link.done] == [Ending.answered, Ending.connection_lost]


@pytest.mark.parametrize(("busy", "ending"), [(True, Ending.late), (False, Ending.engine_failed)])
async def test_a_late_first_token_is_a_failure_only_where_nothing_else_comes_out(busy: bool, ending: Ending) -> None:
    async with serving(simulated(tokens=40, token_s=0.05)) as quick, serving(simulated(first_token_s=30)) as slow:
        link = OneReplica(quick.url, slow.url) if busy else OneReplica(slow.url)
        async with dispatching(link, TimeoutsConfig(first_token_s=0.6), retries=0) as dispatcher:
            others = []
            if busy:
                others.append(asyncio.create_task(dispatcher.serve(parsed(stream=True), PATH, Client(Browser().send))))
                await asyncio.sleep(0.05)
            with pytest.raises(UnavailableError, match="no first token"):
                await dispatcher.serve(parsed(stream=True), PATH, Client(Browser().send))
            await asyncio.gather(*others)
    assert ending in [done.ending for done in link.done]
    assert Ending.late.worked
    assert not Ending.late.failed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("late_s", "ending"), [(0.2, Ending.engine_failed), (30.0, Ending.given_up)])
async def test_a_request_whose_time_is_up_tells_of_an_engine_that_never_answered(
    stream: bool, late_s: float, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apportion.deployments.ingress.attempt.LATE_S", late_s)
    async with serving(simulated(first_token_s=30)) as hung:
        link = StubLink(hung.url)
        async with dispatching(link) as dispatcher:
            with pytest.raises(DeadlineError):
                await dispatcher.serve(parsed(stream=stream, routing={"timeout_s": 0.4}), PATH, Client(Browser().send))
    assert [done.ending for done in link.done] == [ending]


async def test_a_request_whose_time_is_up_blames_no_engine_that_answers_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.deployments.ingress.attempt.LATE_S", 0.2)
    async with serving(simulated(tokens=40, token_s=0.05)) as quick, serving(simulated(first_token_s=30)) as slow:
        link = OneReplica(quick.url, slow.url)
        async with dispatching(link) as dispatcher:
            other = asyncio.create_task(dispatcher.serve(parsed(stream=True), PATH, Client(Browser().send)))
            await asyncio.sleep(0.05)
            with pytest.raises(DeadlineError):
                await dispatcher.serve(parsed(routing={"timeout_s": 0.6}), PATH, Client(Browser().send))
            assert [done.ending for done in link.done] == [Ending.late]
            await other


async def test_a_request_on_a_replica_that_fell_silent_is_tried_elsewhere() -> None:
    async with serving(simulated(first_token_s=30)) as hung, serving(simulated()) as good:
        link, client = StubLink(hung.url, good.url), Browser()
        async with dispatching(link) as dispatcher:
            work = asyncio.create_task(dispatcher.serve(parsed(), PATH, Client(client.send)))
            while not hung.running:
                await asyncio.sleep(0.01)
            (on_silence,) = link.watched.values()
            on_silence()
            await asyncio.wait_for(work, 5)
    assert client.status == 200
    assert [done.ending for done in link.done] == [Ending.connection_lost, Ending.answered]


async def test_a_stream_of_a_replica_that_fell_silent_ends_with_an_error_event() -> None:
    async with serving(simulated(tokens=1000, token_s=0.05)) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            work = asyncio.create_task(dispatcher.serve(parsed(stream=True), PATH, Client(client.send)))
            await client.first_byte.wait()
            (on_silence,) = link.watched.values()
            on_silence()
            await asyncio.wait_for(work, 5)
    *_, error, done, _ = client.body.split(b"\n\n")
    assert b"fallen silent" in error
    assert done == b"data: [DONE]"
    assert [done.ending for done in link.done] == [Ending.connection_lost]
