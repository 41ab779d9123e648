import asyncio
import dataclasses
import json
import re
from functools import partial

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.config.simulated import SimulatedSignals
from apportion.deployments.engine.replica import EngineServer
from apportion.deployments.ingress.client import Client, ServedResponse
from apportion.router.batch.messages import Decision, Ending, RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.budget import Account
from apportion.router.errors import DeadlineError, OverloadedError, RateLimitError, UnavailableError
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced
from tests.deployments.ingress.dispatching import (
    PATH,
    Browser,
    StubLink,
    dead_url,
    dispatching,
    parsed,
    serving,
    simulated,
)
from tests.router.batch.plain_room import forecasts


async def test_an_answer_is_passed_on_with_its_reasons_and_settled() -> None:
    async with serving(simulated()) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 200
    assert json.loads(client.body)["model"] == "small"
    assert client.headers["x-router-model"] == "small"
    assert [done.cost_usd for done in link.done] == [float(client.headers["x-router-settled-cost-usd"])]


async def test_a_stream_is_passed_on_and_settled_at_its_end() -> None:
    async with serving(simulated(tokens=3)) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(stream=True), PATH, Client(client.send))
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert client.body.count(b"data: {") == 3
    assert link.done[0].cost_usd is not None
    assert link.done[0].cost_usd > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("share", "n"), [(1.0, 1), (0.0, 1), (1.0, 2)])
async def test_how_sure_a_model_was_is_told_to_the_router_where_it_is_asked_and_never_to_clients(
    stream: bool, share: float, n: int
) -> None:
    async with serving(simulated(tokens=3, signals=SimulatedSignals())) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link, signals=share) as dispatcher:
            await dispatcher.serve(parsed(stream=stream, n=n), PATH, Client(client.send))
    assert client.status == 200
    assert not [name for name in client.headers if "signals" in name]
    assert b"signals" not in client.body
    course = link.done[0].course
    assert course is not None
    assert (course.signals is not None) == (share > 0 and n == 1)


async def test_an_unreachable_replica_is_reported_and_the_request_planned_again() -> None:
    async with serving(simulated()) as engine:
        link, client = StubLink(dead_url(), engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 200
    assert [done.ending for done in link.done] == [Ending.unreachable, Ending.answered]
    assert len({done.id for done in link.done}) == 2


async def test_when_no_replica_can_be_reached_nothing_is_sent() -> None:
    link, client = StubLink(dead_url()), Browser()
    async with dispatching(link, retries=1) as dispatcher:
        with pytest.raises(UnavailableError, match="2 replicas were tried"):
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 0
    assert len(link.done) == 2


async def test_a_request_past_its_deadline_is_told_so_and_its_seat_freed() -> None:
    async with serving(simulated(first_token_s=5)) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link, request_timeout_s=0.1) as dispatcher:
            with pytest.raises(DeadlineError):
                await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert [done.cost_usd for done in link.done] == [None]


async def test_an_engines_error_keeps_its_status_and_costs_nothing() -> None:
    async def refuse(request: Request) -> Response:
        error = {"message": "temperature too high", "type": "BadRequestError", "param": "temperature", "code": 400}
        return JSONResponse({"error": error}, status_code=400)

    async with serving(Starlette(routes=[Route(PATH, refuse, methods=["POST"])])) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 400
    assert json.loads(client.body)["error"] == {
        "message": "temperature too high",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "invalid_request",
    }
    assert link.done[0].cost_usd == 0.0


@pytest.mark.parametrize("sent", [b'data: {"choices":[]}\n\n', b'data: {"choices":[{"del'])
async def test_a_stream_that_breaks_ends_with_an_error_event(sent: bytes) -> None:
    broken = asyncio.Event()

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%s\r\n" % (len(sent), sent))
        await writer.drain()
        await broken.wait()
        writer.close()

    engine = await asyncio.start_server(break_off, "127.0.0.1", 0)
    async with engine:
        port = engine.sockets[0].getsockname()[1]
        link, client = StubLink(f"http://127.0.0.1:{port}"), Browser()
        async with dispatching(link) as dispatcher:
            work = asyncio.create_task(dispatcher.serve(parsed(stream=True), PATH, Client(client.send)))
            await client.first_byte.wait()
            broken.set()
            await work
    *_, error, done, _ = client.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "unavailable"
    assert done == b"data: [DONE]"
    assert link.done[0].cost_usd is None


async def test_a_client_that_leaves_ends_the_request() -> None:
    async with serving(simulated(first_token_s=30)) as engine:
        link, client = StubLink(engine.url), Browser()
        gone = asyncio.Event()

        async def receive() -> dict:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with dispatching(link) as dispatcher:
            response = ServedResponse(partial(dispatcher.serve, parsed(), PATH))
            call = asyncio.create_task(response({"type": "http"}, receive, client.send))
            while not engine.running:
                await asyncio.sleep(0.01)
            gone.set()
            await asyncio.wait_for(call, 2)
            while engine.running:
                await asyncio.sleep(0.01)
    assert len(link.done) == 1
    assert client.status == 0


async def fail(request: Request) -> Response:
    return JSONResponse({"error": {"message": "engine dead"}}, status_code=500)


async def test_an_engine_that_fails_costs_another_attempt_elsewhere() -> None:
    async with serving(Starlette(routes=[Route(PATH, fail, methods=["POST"])])) as bad, serving(simulated()) as good:
        link, client = StubLink(dead_url(), bad.url, good.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 200
    assert [done.ending.failed for done in link.done] == [True, True, False]
    assert [item.avoid_replicas for item in link.asked] == [(), ("replica-1",), ("replica-1", "replica-2")]
    assert [item.avoid_models for item in link.asked] == [(), (), ("small", "small")]
    assert len({item.id for item in link.asked}) == 3


async def test_after_the_last_attempt_the_client_is_told() -> None:
    async with serving(Starlette(routes=[Route(PATH, fail, methods=["POST"])])) as bad:
        link, client = StubLink(bad.url), Browser()
        async with dispatching(link, retries=1) as dispatcher:
            with pytest.raises(UnavailableError, match=r"500.*2 replicas") as told:
                await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 0
    assert "engine dead" not in told.value.message, "what a broken engine says may quote a request"


async def test_a_stream_whose_first_token_is_late_is_tried_elsewhere() -> None:
    async with serving(simulated(first_token_s=30)) as slow, serving(simulated(tokens=2)) as quick:
        link, client = StubLink(slow.url, quick.url), Browser()
        async with dispatching(link, TimeoutsConfig(first_token_s=0.1)) as dispatcher:
            await dispatcher.serve(parsed(stream=True), PATH, Client(client.send))
            while slow.running:
                await asyncio.sleep(0.01)
    assert client.body.count(b"data: {") == 2
    assert [done.ending.failed for done in link.done] == [True, False]


async def test_an_answer_that_takes_longer_than_its_engine_may_is_tried_elsewhere() -> None:
    async with serving(simulated(first_token_s=30)) as slow, serving(simulated()) as quick:
        link, client = StubLink(slow.url, quick.url), Browser()
        async with dispatching(link, TimeoutsConfig(total_s=0.5)) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 200
    assert [done.ending.failed for done in link.done] == [True, False]


async def test_a_deadline_within_a_stream_ends_it_with_an_event_and_without_another_attempt() -> None:
    async with serving(simulated(tokens=100, token_s=0.05)) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(stream=True, routing={"timeout_s": 0.2}), PATH, Client(client.send))
            while engine.running:
                await asyncio.sleep(0.01)
    *_, error, done, _ = client.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
    assert done == b"data: [DONE]"
    assert len(link.asked) == 1


async def test_what_is_left_of_the_time_goes_with_every_attempt() -> None:
    async with serving(simulated(first_token_s=30)) as slow, serving(simulated()) as quick:
        link, client = StubLink(slow.url, quick.url), Browser()
        async with dispatching(link, TimeoutsConfig(total_s=0.5)) as dispatcher:
            await dispatcher.serve(parsed(routing={"timeout_s": 5.0}), PATH, Client(client.send))
    first, second = (item.timeout_s for item in link.asked)
    assert first <= 5.0
    assert second <= first - 0.5


async def test_the_price_that_was_planned_with_is_the_price_that_is_charged() -> None:
    class DearLink(StubLink):
        async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
            return dataclasses.replace(await super().plan(item, forecast), price=ModelPrice(0.0, 1000.0))

    async with serving(simulated(tokens=3)) as engine:
        link, client = DearLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
            await dispatcher.serve(parsed(stream=True), PATH, Client(Browser().send))
    assert [done.cost_usd for done in link.done] == [pytest.approx(3e-3), pytest.approx(3e-3)]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_an_engine_has_read_before_is_charged_at_its_own_price(stream: bool) -> None:
    class CachingLink(StubLink):
        async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
            return dataclasses.replace(await super().plan(item, forecast), price=ModelPrice(100.0, 0.0, 10.0))

    first = [{"role": "user", "content": "x" * 100}]
    second = [*first, {"role": "assistant", "content": "a"}]
    read = len(json.dumps(first)) - len("]")
    async with serving(simulated(cached_prompts=4)) as engine:
        link, client = CachingLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(messages=first), PATH, Client(Browser().send))
            asked = parsed(messages=second, stream=stream, stream_options={"include_usage": True} if stream else None)
            await dispatcher.serve(asked, PATH, Client(client.send))
    assert re.findall(rb'"cached_tokens": ?([0-9]+)', client.body) == [str(read).encode()]
    assert [done.cost_usd for done in link.done] == [
        pytest.approx(len(json.dumps(first)) * 1e-4),
        pytest.approx((len(json.dumps(second)) - read) * 1e-4 + read * 1e-5),
    ]


async def test_an_engine_keeps_an_idle_connection_longer_than_its_callers_do() -> None:
    server = EngineServer(Starlette(), "127.0.0.1")
    async with aiohttp.TCPConnector() as pool:
        assert server._server.config.timeout_keep_alive > pool._keepalive_timeout
    server._socket.close()


async def test_a_simulated_engine_says_what_it_does_not_play() -> None:
    async with serving(simulated()) as engine:
        link, client = StubLink(engine.url), Browser()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), "/v1/messages", Client(client.send, path="/v1/messages"))
    assert (client.status, [done.cost_usd for done in link.done]) == (404, [0.0])
    assert "does not answer at /v1/messages" in json.loads(client.body)["error"]["message"]


class Predicting:
    """Takes so long, and remembers whom for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[RouteItem] = []

    async def __call__(self, item: RouteItem, prompt: Prompt) -> Unpriced:
        self.asked.append(item)
        await asyncio.sleep(self.seconds)
        return forecasts(1)


async def test_a_request_is_predicted_once_within_its_time_however_often_it_is_tried() -> None:
    predicting = Predicting(0.2)
    async with serving(simulated()) as engine:
        link, client = StubLink(dead_url(), engine.url), Browser()
        async with dispatching(link, forecast=predicting) as dispatcher:
            await dispatcher.serve(parsed(routing={"timeout_s": 5.0}), PATH, Client(client.send))
    assert client.status == 200
    first, second = link.asked
    assert len(predicting.asked) == 1
    assert 0.2 <= first.predict_s < 1.0
    assert second.predict_s == 0.0
    assert first.timeout_s <= 4.8


async def test_what_is_predicted_for_too_long_is_late_and_the_router_never_hears_of_it() -> None:
    link, client = StubLink(dead_url()), Browser()
    async with dispatching(link, forecast=Predicting(5.0)) as dispatcher:
        with pytest.raises(DeadlineError):
            await dispatcher.serve(parsed(routing={"timeout_s": 0.05}), PATH, Client(client.send))
    assert (link.asked, link.done) == ([], [])


async def test_a_client_that_leaves_while_predicted_holds_nothing() -> None:
    link, predicting = StubLink(dead_url()), Predicting(5.0)
    async with dispatching(link, forecast=predicting) as dispatcher:
        serving_ = asyncio.create_task(dispatcher.serve(parsed(), PATH, Client(Browser().send)))
        while not predicting.asked:
            await asyncio.sleep(0)
        serving_.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving_
    assert (link.asked, link.done) == ([], [])


async def test_nobody_predicts_for_whom_the_router_refuses() -> None:
    class Refusing(StubLink):
        def check(self, account: Account) -> None:
            raise RateLimitError("too often", retry_after_s=1.0)

    predicting = Predicting(0.0)
    async with dispatching(Refusing(dead_url()), forecast=predicting) as dispatcher:
        with pytest.raises(RateLimitError):
            await dispatcher.serve(parsed(), PATH, Client(Browser().send))
    assert predicting.asked == []


async def take_no_more(request: Request) -> Response:
    return JSONResponse({"error": {"message": "full"}}, status_code=503, headers={"x-apportion-busy": "0.25"})


class PickyLink(StubLink):
    """Has no other model."""

    async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
        if "small" in item.avoid_models:
            self.asked.append(item)
            raise UnavailableError("no replica of small is ready")
        return await super().plan(item, forecast)


async def test_whoever_is_busy_is_no_failure_and_the_request_is_planned_again() -> None:
    async with (
        serving(Starlette(routes=[Route(PATH, take_no_more, methods=["POST"])])) as full,
        serving(simulated()) as good,
    ):
        link, client = StubLink(full.url, full.url, full.url, good.url), Browser()
        async with dispatching(link, retries=0) as dispatcher:
            await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert client.status == 200
    assert [(done.ending, done.busy_s) for done in link.done] == [(Ending.busy, 0.25)] * 3 + [(Ending.answered, 0.0)]
    assert not any(done.ending.failed or done.ending.worked for done in link.done[:3])
    assert [done.course.status for done in link.done if done.course] == [None, None, None, 200]
    assert [item.earlier for item in link.asked] == [0, 1, 2, 3]
    assert len({item.id for item in link.asked}) == 4
    assert not any(item.avoid_replicas or item.avoid_models for item in link.asked)


async def test_after_five_times_other_models_are_asked_and_then_the_client_is_told_when_to_come_again() -> None:
    async with serving(Starlette(routes=[Route(PATH, take_no_more, methods=["POST"])])) as full:
        link, client = PickyLink(full.url), Browser()
        async with dispatching(link) as dispatcher:
            with pytest.raises(OverloadedError, match="small cannot take more requests") as told:
                await dispatcher.serve(parsed(), PATH, Client(client.send))
    assert told.value.retry_after_s == 0.25
    assert [item.avoid_models for item in link.asked] == [()] * 5 + [("small",)]
    assert len(link.done) == 5
