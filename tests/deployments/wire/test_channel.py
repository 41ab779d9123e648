import asyncio
import contextlib
import pickle
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from apportion.deployments.wire import channel as channel_module
from apportion.deployments.wire import sealed
from apportion.deployments.wire.channel import Address, Channel, Listener
from apportion.deployments.wire.listening import ANY_PORT
from apportion.router.errors import ApportionError, BudgetExceededError, ConfigurationError, UnavailableError
from tests.deployments.severing import Severing

HOST = "127.0.0.1"


async def double(value: int, pause_s: float = 0.0) -> int:
    await asyncio.sleep(pause_s)
    return 2 * value


@contextlib.asynccontextmanager
async def listening(answer: Callable[..., Awaitable[Any]] = double) -> AsyncIterator[tuple[Listener, Address]]:
    listener = Listener(answer, ANY_PORT, "router.ports")
    try:
        yield listener, await listener.start(HOST)
    finally:
        listener.close()


@contextlib.asynccontextmanager
async def calling(*addresses: Address) -> AsyncIterator[Channel]:
    """A channel that is told one address after another, the last one again and again."""
    left = list(addresses)

    async def find() -> Address:
        return left.pop(0) if len(left) > 1 else left[0]

    channel = Channel(find, "the router")
    try:
        yield channel
    finally:
        channel.close()
        await asyncio.sleep(0)


async def test_calls_cross_on_one_connection_and_are_answered_as_they_are_ready() -> None:
    async with listening() as (listener, address), calling(address) as channel:
        ended: list[int] = []

        async def call(value: int, pause_s: float) -> None:
            ended.append(await channel.call(value, pause_s))

        await asyncio.gather(call(1, 0.1), call(2, 0.05), call(3, 0.0))
        assert ended == [6, 4, 2]
        assert len(listener._lines) == 1


async def test_an_error_of_the_service_is_raised_as_it_is() -> None:
    async def refuse(_: int) -> None:
        raise BudgetExceededError("too dear", retry_after_s=2.0)

    async with listening(refuse) as (_, address), calling(address) as channel:
        with pytest.raises(BudgetExceededError, match="too dear") as caught:
            await channel.call(1)
        assert caught.value.retry_after_s == 2.0


async def test_what_else_fails_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(value: int) -> int:
        if value:
            raise RuntimeError("somebody's prompt")
        return 5

    async with listening(fail) as (_, address), calling(address) as channel:
        with pytest.raises(ApportionError) as caught:
            await channel.call(1)
        assert "prompt" not in str(caught.value)
        assert "a call failed" in caplog.text
        assert await channel.call(0) == 5


async def test_an_answer_that_cannot_be_sent_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def much() -> bytes:
        return b"x" * 2000

    async with listening(much) as (_, address), calling(address) as channel:
        assert len(await channel.call()) == 2000
        monkeypatch.setattr(sealed, "MAX_MESSAGE_BYTES", 1000)
        with pytest.raises(ConnectionError):
            await channel.call()
        with pytest.raises(ValueError, match="too long"):
            await channel.call(b"x" * 1000)


async def test_a_call_that_is_given_up_ends_where_it_is_answered_and_no_other_does() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(pause_s: float) -> str:
        begun.set()
        try:
            await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "done"

    async with listening(answer) as (listener, address), calling(address) as channel, asyncio.timeout(5):
        given_up, other = asyncio.create_task(channel.call(60.0)), asyncio.create_task(channel.call(0.3))
        await begun.wait()
        given_up.cancel()
        await cancelled.wait()
        assert await other == "done"
        (line,) = listener._lines
        assert not line._tasks


async def test_calls_are_spread_over_as_many_replicas_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "LOOK_S", 0.01)
    asked: list[str] = []

    def replica(name: str) -> Callable[[], Awaitable[None]]:
        async def answer() -> None:
            asked.append(name)
            await asyncio.sleep(0.1)

        return answer

    async with listening(replica("a")) as (_, one), listening(replica("b")) as (other_listener, other):
        found: list[Address] = []

        async def find() -> Address:
            found.append(random.choice((one, other)))
            return found[-1]

        channel = Channel(find, "a predictor", replicas=2)
        while len(channel._open) < 2:
            await channel.call()
            await asyncio.sleep(0.02)
        looks = len(found)
        asked.clear()
        await asyncio.gather(*(channel.call() for _ in range(8)))
        assert Counter(asked) == {"a": 4, "b": 4}
        assert len(found) == looks, "who knows all of them looks for no more"
        other_listener.close()
        await asyncio.sleep(0.05)
        asked.clear()
        await asyncio.gather(*(channel.call() for _ in range(4)))
        assert asked == ["a"] * 4
        channel.close()
        await asyncio.sleep(0.01)


async def test_after_a_failure_the_address_is_asked_anew() -> None:
    async with listening() as (first, one), listening() as (_, other), calling(one, other) as channel:
        assert await channel.call(1) == 2
        waits = asyncio.create_task(channel.call(1, 60))
        await asyncio.sleep(0.05)
        first.close()
        with pytest.raises(ConnectionError):
            await waits
        assert await channel.call(2) == 4


async def test_nobody_there_is_an_error_that_says_where() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    async with calling(Address(HOST, port, b"s" * 32)) as channel:
        with pytest.raises(UnavailableError, match=f"the router cannot be reached at {HOST}:{port}"):
            await channel.call(1)


async def test_ports_that_are_taken_are_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=r"router\.ports"):
            await Listener(double, (port, port), "router.ports").start(HOST)


async def test_a_listener_starts_once() -> None:
    async with listening() as (listener, address):
        assert await asyncio.gather(listener.start(HOST), listener.start(HOST)) == [address, address]
        assert "secret" not in repr(address)


async def test_who_does_not_know_the_secret_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as (_, address):
        async with calling(replace(address, secret=b"x" * 32)) as stranger:
            with pytest.raises(UnavailableError):
                await stranger.call(1)
        assert "does not come from this service" in caplog.text
        async with calling(address) as channel:
            assert await channel.call(1) == 2


class Bomb:
    """Says, when it is unpickled, that it was."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exploded.append, (1,)


exploded: list[int] = []


async def test_nothing_of_a_stranger_is_unpickled() -> None:
    bomb = pickle.dumps(Bomb())
    async with listening() as (_, address):
        for greeting in (b"", bytes(20)):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(b"n" * 16 + greeting + len(bomb).to_bytes(4, "big") + b"m" * 16 + bomb)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(1000):
                        pass
            writer.close()
    assert exploded == []


async def test_a_stranger_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "GREETING_S", 0.05)
    async with listening() as (listener, address):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                while await reader.read(1000):
                    pass
        writer.close()
        await asyncio.sleep(0.01)
        assert not listener._lines
        async with calling(address) as channel:
            assert await channel.call(1, 0.1) == 2  # whoever has greeted may take its time


@pytest.mark.parametrize("harm", ["alter", "repeat", "omit", "reflect"])
async def test_what_was_changed_on_the_way_is_not_read(harm: str) -> None:
    async with listening() as (_, address), Severing(address) as way, calling(way.address) as channel:
        assert await channel.call(1) == 2
        way.harm = harm
        with pytest.raises((ConnectionError, TimeoutError)):
            async with asyncio.timeout(0.5):  # where a frame is left out, its successor tells
                await asyncio.gather(channel.call(2), asyncio.create_task(_later(channel)))
        way.harm = None
        assert await channel.call(3) == 6


async def _later(channel: Channel) -> None:
    await asyncio.sleep(0.02)
    await channel.call(4)
