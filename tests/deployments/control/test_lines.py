"""Ingresses' lines to the real Router over connections that break."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.service import ListeningSection
from apportion.deployments.ingress import link as link_module
from apportion.deployments.ingress.forecasting import forecaster_of
from apportion.deployments.wire.channel import Channel, Listener
from apportion.deployments.wire.listening import ANY_PORT
from apportion.router.batch.prompt import Prompt
from apportion.router.unpriced import Unpriced
from tests.deployments.control.money import Start, item, total
from tests.deployments.local_router import DearIsGood, Line
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
    assert ListeningSection(ports=(2000, 2001)).ports == (2000, 2001)
    with pytest.raises(ValueError, match="lower one first"):
        ListeningSection(ports=(2001, 2000))


class Replica(DearIsGood):
    """Of the predictor; counts what it is asked, and hangs where it is to."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs = False
        self.listener = Listener(self.predict, ANY_PORT, "predictor.ports")

    async def predict(self, *given: Any) -> Unpriced:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(60)
        return await super().predict(*given)


async def test_a_predictor_that_dies_costs_what_it_was_at_a_prediction_and_the_next_is_found(start: Start) -> None:
    service = await start(total(1.0))
    replicas = [Replica(), Replica()]
    channel = Channel(lambda: replicas[0].listener.start("127.0.0.1"), "the predictor")
    forecaster = forecaster_of(service.config, channel.call, Knowledge.of(service.config).mean_success)
    first = await forecaster.forecast(item("a"), Prompt("x"))
    replicas[0].hangs = True
    waits = asyncio.create_task(forecaster.forecast(item("b"), Prompt("x")))
    async with asyncio.timeout(5):
        while replicas[0].asked < 2:
            await asyncio.sleep(0.01)
        dead = replicas.pop(0)
        dead.listener.close()
        without = await waits
        again = await forecaster.forecast(item("c"), Prompt("x"))
    assert (dead.asked, replicas[0].asked) == (2, 1)
    assert [bool(one.guessed) for one in (first, without, again)] == [False, True, False]
    forecaster.close()
    channel.close()
    replicas[0].listener.close()
    await asyncio.sleep(0.01)
