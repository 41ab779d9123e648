import asyncio
import contextlib
import dataclasses
import json
import socket
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.config.service import DispatchConfig
from apportion.deployments.engine.core_border import count_at
from apportion.deployments.engine.meter import Meter, current_usage
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.engine.watch import StallWatch
from apportion.deployments.ingress.client import Client
from apportion.deployments.wire.engine_headers import engine_headers
from apportion.router.errors import ConfigurationError, DeadlineError, UnavailableError
from apportion.router.prices import ModelPrice
from apportion.router.signals import signals_of
from tests.deployments.ingress.dispatching import PATH, Browser, StubLink, dispatching, parsed, serving, simulated
from tests.router.batch.plain_room import forecasts

PRICE = ModelPrice(1.0, 10.0)  # USD per million tokens


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def scope(request_id: str, sequences: int = 1, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    headers = [(b"x-request-id", request_id.encode()), (b"x-router-sequences", str(sequences).encode()), *more]
    return {"type": "http", "path": PATH, "method": "POST", "headers": headers}


async def nothing(*_: Any) -> Any:
    return None


class Core:
    """The border of an engine's core: what it is told to put out comes out."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[Any] = asyncio.Queue()

    async def add_request_async(self, request: Any) -> None: ...

    async def get_output_async(self) -> Any:
        return await self.out.get()

    def put(self, cached: int | None = None, **tokens: int) -> None:
        stats = None if cached is None else SimpleNamespace(num_cached_tokens=cached)
        outputs = [
            SimpleNamespace(request_id=name, new_token_ids=[0] * count, prefill_stats=stats)
            for name, count in tokens.items()
        ]
        self.out.put_nowait(SimpleNamespace(outputs=outputs))


async def test_what_a_core_has_read_and_put_out_is_charged_when_its_request_is_broken_off() -> None:
    core, hang = Core(), asyncio.Event()

    async def app(*_: Any) -> None:
        for child in ("0_a", "1_a"):  # two sequences of one prompt
            await core.add_request_async(
                SimpleNamespace(request_id=child, external_req_id="a", prompt_token_ids=[1] * 7)
            )
        hang.set()
        await asyncio.sleep(60)

    meter = Meter(app, PRICE)
    count_at(core, meter)
    work = asyncio.create_task(meter(scope("r1", 2), nothing, nothing))
    await hang.wait()
    assert meter.sequences == 2
    assert meter.costs(["r1"]) == {}, "it runs"
    core.put(**{"0_a": 3, "1_a": 2, "stranger": 50})
    core.put()
    for _ in range(2):
        await core.get_output_async()
    work.cancel()
    await asyncio.wait({work})
    assert meter.costs(["r1", "unknown"]) == {"r1": pytest.approx((7 * 1 + 5 * 10) / 1e6, abs=1e-15)}
    assert meter.sequences == 0


async def test_what_a_core_had_read_before_costs_less_even_if_the_answer_is_lost() -> None:
    core, price = Core(), ModelPrice(1.0, 10.0, 0.25)

    async def app(scope: Any, *_: Any) -> None:
        for child, prompt in (
            ("0_a", "a"),
            ("1_a", "a"),
            ("2_b", "b"),
        ):  # two sequences of a prompt, and another prompt
            await core.add_request_async(
                SimpleNamespace(request_id=child, external_req_id=prompt, prompt_token_ids=[1] * 70)
            )
        core.put(cached=16, **{"0_a": 1})
        core.put(cached=64, **{"1_a": 1})  # what the first sequence has read
        core.put(cached=32, **{"2_b": 1, "stranger": 1})
        for _ in range(3):
            await core.get_output_async()
        if scope["path"] == "/settled":
            current_usage().settle(140, 9)

    meter = Meter(app, price)
    count_at(core, meter)
    await meter(scope("lost"), nothing, nothing)
    await meter(scope("answered") | {"path": "/settled"}, nothing, nothing)
    assert meter.costs(["lost", "answered"]) == {
        "lost": pytest.approx((92 * 1 + 48 * 0.25 + 3 * 10) / 1e6),
        "answered": pytest.approx((92 * 1 + 48 * 0.25 + 9 * 10) / 1e6),
    }


ASKED = (b"x-router-signals-asked", b"1")
# Of three steps, the second with two tokens: the one that was written, then the three likeliest.
STEPS = [[[-0.5, -0.5, -1.5, -9]], [[-2, -1, -2, -9], [0, 0, -np.inf, -np.inf]], [[-0.25, -0.25, -4.25, -9]]]


@pytest.mark.parametrize("client", [None, 0, 1, 3, -1], ids="client asks for {}".format)
@pytest.mark.parametrize("asked", [True, False])
async def test_how_sure_a_model_was_is_seen_at_the_border_and_clients_get_what_they_asked_for(
    client: int | None, asked: bool
) -> None:
    core, seen = Core(), []

    async def app(*_: Any) -> None:
        params = SimpleNamespace(logprobs=client, logprob_token_ids=None)
        request = SimpleNamespace(request_id="a", external_req_id="a", prompt_token_ids=[1] * 7, sampling_params=params)
        await core.add_request_async(request)
        assert params.logprobs == client, "the front end reads what the client asked for"
        seen.append(request.sampling_params.logprobs)
        for step in STEPS:
            told = SimpleNamespace(logprobs=np.array(step)) if request.sampling_params.logprobs is not None else None
            output = SimpleNamespace(
                request_id="a", new_token_ids=[0] * len(step), prefill_stats=None, new_logprobs=told
            )
            core.out.put_nowait(SimpleNamespace(outputs=[output]))
            await core.get_output_async()
            assert output.new_logprobs is (None if client is None else told)
        seen.append(current_usage().settle(7, 4).signals)

    meter = Meter(app, PRICE)
    count_at(core, meter)
    await meter(scope("r1", 1, *([ASKED] if asked else [])), nothing, nothing)
    assert seen[0] == ({None: 2, 0: 2, 1: 2, 3: 3, -1: -1}[client] if asked else client)
    assert seen[1] == (signals_of([-0.5, -2, 0, -0.25], [1, 1, 50, 4]) if asked else None)


@pytest.mark.parametrize(("sequences", "tells_logprobs"), [(2, True), (1, False)])
async def test_of_several_sequences_and_of_logits_nothing_is_said(sequences: int, tells_logprobs: bool) -> None:
    core, seen = Core(), []

    async def app(*_: Any) -> None:
        for one in range(sequences):
            params = SimpleNamespace(logprobs=5, logprob_token_ids=None)
            await core.add_request_async(
                SimpleNamespace(request_id=f"{one}", external_req_id="a", prompt_token_ids=[1], sampling_params=params)
            )
            told = SimpleNamespace(logprobs=np.array(STEPS[0]))
            output = SimpleNamespace(request_id=f"{one}", new_token_ids=[0], prefill_stats=None, new_logprobs=told)
            core.out.put_nowait(SimpleNamespace(outputs=[output]))
            await core.get_output_async()
        seen.append(current_usage().settle(1, sequences).signals)

    meter = Meter(app, PRICE)
    count_at(core, meter, tells_logprobs=tells_logprobs)
    await meter(scope("r1", sequences, ASKED), nothing, nothing)
    assert seen == [None]


async def test_what_runs_is_told_by_name_and_the_most_at_once_is_remembered() -> None:
    hang = asyncio.Event()

    async def app(*_: Any) -> None:
        await hang.wait()

    meter = Meter(app, PRICE)
    work = [
        asyncio.create_task(meter(scope(name, sequences), nothing, nothing)) for name, sequences in (("a", 2), ("b", 1))
    ]
    await asyncio.sleep(0)
    work.append(asyncio.create_task(meter({"type": "http", "path": PATH, "headers": []}, nothing, nothing)))
    await asyncio.sleep(0)
    assert meter.running() == {"a": 2, "b": 1}, "not of who measures the engine by itself"
    assert (meter.sequences, meter.peak) == (4, 4)
    hang.set()
    await asyncio.gather(*work)
    await meter(scope("c"), nothing, nothing)
    assert (meter.running(), meter.sequences, meter.peak) == ({}, 0, 4)


async def test_what_does_not_reach_the_engine_costs_nothing_and_a_complete_answer_what_it_said() -> None:
    async def app(scope: Any, *_: Any) -> None:
        if scope["path"] == "/settled":
            current_usage().read("s", "p", 7)
            current_usage().generated(9)
            current_usage().settle(7, 5)

    meter = Meter(app, PRICE)
    await meter(scope("refused"), nothing, nothing)
    await meter(scope("answered") | {"path": "/settled"}, nothing, nothing)
    assert meter.costs(["refused", "answered"]) == {"refused": 0.0, "answered": PRICE.cost_usd(7, 5)}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_knows_what_an_abandoned_request_has_cost(stream: bool) -> None:
    app = simulated(tokens=1000, token_s=0.02)
    async with serving(app) as engine:
        link = StubLink(engine.url)
        async with dispatching(link) as dispatcher:
            with contextlib.suppress(DeadlineError):
                await dispatcher.serve(parsed(stream=stream, routing={"timeout_s": 0.5}), PATH, Client(Browser().send))
            while engine.running:
                await asyncio.sleep(0.01)
    (done,) = link.done
    assert done.cost_usd is None
    cost_usd = app.costs([done.id])[done.id]
    prompt_tokens = len(json.dumps([{"role": "user", "content": "hi"}]))
    assert prompt_tokens / 1e6 < cost_usd < (prompt_tokens + 60) / 1e6


async def test_failures_are_logged_with_the_id_of_their_request(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: Request) -> Response:
        return JSONResponse({"error": {"message": "secret"}}, status_code=500)

    async with serving(Meter(Starlette(routes=[Route(PATH, fail, methods=["POST"])]), PRICE)) as engine:
        link = StubLink(engine.url)
        async with dispatching(link, retries=0) as dispatcher:
            with pytest.raises(UnavailableError):
                await dispatcher.serve(parsed(), PATH, Client(Browser().send))
    of_engine, of_ingress = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert link.done[0].id in of_engine
    assert link.done[0].id in of_ingress
    assert "secret" not in of_engine + of_ingress


async def test_only_who_knows_its_token_is_answered() -> None:
    server = EngineServer(simulated(), "127.0.0.1", token="right")
    await server.start()
    link = StubLink(server.url)
    decision = await link.plan(parsed().item, forecasts(1))
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    async with aiohttp.ClientSession() as session:
        for token, status in ((None, 503), ("wrong", 503), ("right", 200)):
            headers = engine_headers(dataclasses.replace(decision, token=token), 1)
            async with session.post(server.url + PATH, data=body, headers=headers) as answer:
                assert answer.status == status
        async with session.get(server.url + "/metrics") as answer:
            assert answer.status == 405, "of the application: metrics need no token"
    await server.stop()


async def test_an_engine_listens_on_ipv6() -> None:
    try:
        server = EngineServer(simulated(), "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert server.url.startswith("http://[::1]:")
    await server.start()
    async with aiohttp.ClientSession() as session, session.get(server.url + "/") as answer:
        assert answer.status == 405, "of the application"
    await server.stop()


async def test_an_engine_takes_the_first_free_port_of_its_range() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        if first > 65_000:
            pytest.skip("no room above")
        server = EngineServer(simulated(), "127.0.0.1", (first, first + 20))
        port = int(server.url.rsplit(":", 1)[1])
        assert first < port <= first + 20
        server._socket.close()
        with pytest.raises(ConfigurationError, match="engine_ports"):
            EngineServer(simulated(), "127.0.0.1", (first, first))


def test_a_range_of_ports_has_its_lower_end_first() -> None:
    assert DispatchConfig(engine_ports=(2000, 2000)).engine_ports == (2000, 2000)
    with pytest.raises(ValueError, match="lower one first"):
        DispatchConfig(engine_ports=(2001, 2000))


class Watched:
    """An engine that is watched: a request of it runs until `end`."""

    def __init__(self, stall_s: float | None = TimeoutsConfig().stall_s) -> None:
        self.clock = Clock()
        self.asked = 0
        self.end = asyncio.Event()
        self.meter = Meter(self._run, PRICE, self.clock)
        self.watch = StallWatch(self.meter, self._probe, stall_s)

    async def _run(self, *_: Any) -> None:
        await self.end.wait()

    async def _probe(self) -> None:
        self.asked += 1
        await self.end.wait()

    async def after(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await asyncio.sleep(0)
        self.watch.check()
        await asyncio.sleep(0)


async def test_a_silent_engine_is_asked_and_then_given_up() -> None:
    engine = Watched()
    await engine.after(1000)
    assert engine.asked == 0, "it has nothing to do"
    request = asyncio.create_task(engine.meter(scope("r"), nothing, nothing))
    await engine.after(0)
    await engine.after(29)
    assert engine.asked == 0
    await engine.after(2)
    await engine.after(20)
    assert engine.asked == 1
    with pytest.raises(UnavailableError, match="even when asked"):
        await engine.after(10)
    request.cancel()


async def test_an_engine_with_a_long_prompt_gives_signs_and_stays() -> None:
    engine = Watched()
    request = asyncio.create_task(engine.meter(scope("r"), nothing, nothing))
    await engine.after(0)
    for _ in range(10):
        await engine.after(59)
        engine.meter.sign()  # a step of the core
        await engine.after(0)
    assert engine.asked == 10
    engine.end.set()
    await request
    await engine.after(1000)


async def test_an_engine_may_be_left_unwatched() -> None:
    engine = Watched(stall_s=None)
    request = asyncio.create_task(engine.meter(scope("r"), nothing, nothing))
    await engine.after(0)
    await engine.after(1e6)
    assert engine.asked == 0
    request.cancel()


async def test_what_runs_can_be_broken_off() -> None:
    engine = Watched()
    request = asyncio.create_task(engine.meter(scope("r"), nothing, nothing))
    await asyncio.sleep(0)
    engine.meter.abort()
    await asyncio.wait({request})
    assert engine.meter.costs(["r"]) == {"r": 0.0}
