"""Ingresses' lines to the real Router over connections that break."""

import asyncio
import random
from collections import Counter

import pytest

from apportion.deployments.config.service import RouterConfig
from apportion.deployments.ingress import link as link_module
from apportion.deployments.wire.channel import Channel
from tests.deployments.control.money import Start, item, total
from tests.deployments.local_router import Line
from tests.deployments.severing import Severing


async def test_lines_that_break_at_any_moment_lose_nothing_and_charge_nothing_twice(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "RETRY_S", 0.005)
    service = await start(total(1.0), router={"host": "127.0.0.1"})
    inside = service.link
    async with Severing(await service.router.address()) as way:
        channel = Channel(lambda: asyncio.sleep(0, way.address), "the router")
        service.link = Line(channel.call)
        cuts = 0

        async def cut() -> None:
            nonlocal cuts
            while True:
                await asyncio.sleep(random.uniform(0.0, 0.03))
                way.cut()
                cuts += 1

        cutting = asyncio.create_task(cut())
        requests = [asyncio.create_task(service.run(item(f"r{i}"), engine_s=0.01)) for i in range(150)]
        async with asyncio.timeout(30):
            for i, request in enumerate(requests):
                if i % 10 == 0:
                    await asyncio.sleep(random.uniform(0.0, 0.02))
                    request.cancel()
            outcomes = Counter(map(type, await asyncio.gather(*requests, return_exceptions=True)))
        cutting.cancel()
        assert cuts > 3
        assert outcomes[str] >= 135
        assert set(outcomes) <= {str, asyncio.CancelledError}
        state = await service.idle_state()
        assert (state["in_flight"], state["waiting"], state["budget"]["reserved_usd"]) == (0, 0, 0)
        assert state["budget"]["spent_usd"] == pytest.approx(service.generated_usd)
        assert not service.router._callers._in_flight
        await service.link.close()
        channel.close()
    service.router._listener.close()
    service.link = inside


async def test_a_router_that_stops_ends_its_lines(start: Start) -> None:
    service = await start(total(1.0), router={"host": "127.0.0.1"})
    channel = Channel(service.router.address, "the router")
    link = Line(channel.call)
    assert (await link.plan(item("r"))).id == "r"
    (line,) = channel._lines.values()
    ended = line.connection
    service.router.__del__()
    async with asyncio.timeout(5):
        while not ended.closed:
            await asyncio.sleep(0.01)
    link._keepalive.cancel()


def test_its_ports_are_a_range_with_the_lower_end_first() -> None:
    assert RouterConfig(ports=(2000, 2001)).ports == (2000, 2001)
    with pytest.raises(ValueError, match="lower one first"):
        RouterConfig(ports=(2001, 2000))
