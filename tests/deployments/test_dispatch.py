import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.config import DispatchConfig, ModelConfig, SimulatedConfig
from deployments.dispatch import Dispatcher, RoutedResponse
from deployments.engine import EngineServer
from deployments.messages import BatchInfo, Decision, Done, RouteItem
from deployments.openai import parse
from deployments.simulated import SimulatedEngine
from router.errors import DeadlineError, UnavailableError

BATCH = BatchInfo(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ())
PATH = "/v1/chat/completions"


class StubLink:
    """Sends every request to the next URL of a list, the last one again and again; records the endings."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.done: list[Done] = []

    async def plan(self, item: RouteItem) -> Decision:
        url = self.urls.pop(0) if len(self.urls) > 1 else self.urls[0]
        return Decision(item.id, "small", 0.5, 1e-6, 0.0, "mip", "mip", BATCH, "replica", url)

    def finish(self, done: Done) -> None:
        self.done.append(done)


class Client:
    """Collects what is sent to it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.first_byte = asyncio.Event()

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self.first_byte.set()


def parsed(**fields: object):
    body = {"messages": [{"role": "user", "content": "hi"}]} | fields
    return parse("chat", json.dumps(body).encode(), {}, ("small",))


def dead_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(app) -> AsyncIterator[EngineServer]:
    server = EngineServer(app, "127.0.0.1")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def simulated(**timings: float) -> Starlette:
    model = ModelConfig(
        name="small",
        source="x",
        engine="simulated",
        simulated=SimulatedConfig(**timings),
        input_usd_per_million=1,
        output_usd_per_million=1,
        max_model_len=1000,
    )
    return SimulatedEngine(model).app


@contextlib.asynccontextmanager
async def dispatching(link: StubLink, **config: float) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(link, DispatchConfig(**config))
    yield dispatcher
    await dispatcher.close()


async def test_an_answer_is_passed_on_with_its_reasons_and_settled() -> None:
    async with serving(simulated()) as engine:
        link, client = StubLink(engine.url), Client()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, client.send)
    assert client.status == 200
    assert json.loads(client.body)["model"] == "small"
    assert client.headers["x-router-model"] == "small"
    assert [done.cost_usd for done in link.done] == [float(client.headers["x-router-settled-cost-usd"])]


async def test_a_stream_is_passed_on_and_settled_at_its_end() -> None:
    async with serving(simulated(tokens=3)) as engine:
        link, client = StubLink(engine.url), Client()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(stream=True), PATH, client.send)
    assert client.body.endswith(b"data: [DONE]\n\n")
    assert client.body.count(b"data: {") == 3
    assert link.done[0].cost_usd is not None
    assert link.done[0].cost_usd > 0


async def test_an_unreachable_replica_is_reported_and_the_request_planned_again() -> None:
    async with serving(simulated()) as engine:
        link, client = StubLink(dead_url(), engine.url), Client()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, client.send)
    assert client.status == 200
    assert [(done.lost_replica, done.worked) for done in link.done] == [(True, False), (False, True)]
    assert len({done.id for done in link.done}) == 2


async def test_when_no_replica_can_be_reached_nothing_is_sent() -> None:
    link, client = StubLink(dead_url()), Client()
    async with dispatching(link, retries=1) as dispatcher:
        with pytest.raises(UnavailableError, match="2 engine replicas"):
            await dispatcher.serve(parsed(), PATH, client.send)
    assert client.status == 0
    assert len(link.done) == 2


async def test_a_request_past_its_deadline_is_told_so_and_its_seat_freed() -> None:
    async with serving(simulated(first_token_s=5)) as engine:
        link, client = StubLink(engine.url), Client()
        async with dispatching(link, request_timeout_s=0.1) as dispatcher:
            with pytest.raises(DeadlineError):
                await dispatcher.serve(parsed(), PATH, client.send)
    assert [done.cost_usd for done in link.done] == [None]


async def test_an_engines_error_keeps_its_status_and_costs_nothing() -> None:
    async def refuse(request: Request) -> Response:
        error = {"message": "temperature too high", "type": "BadRequestError", "param": "temperature", "code": 400}
        return JSONResponse({"error": error}, status_code=400)

    async with serving(Starlette(routes=[Route(PATH, refuse, methods=["POST"])])) as engine:
        link, client = StubLink(engine.url), Client()
        async with dispatching(link) as dispatcher:
            await dispatcher.serve(parsed(), PATH, client.send)
    assert client.status == 400
    assert json.loads(client.body)["error"] == {
        "message": "temperature too high",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "invalid_request",
    }
    assert link.done[0].cost_usd == 0.0


async def test_a_stream_that_breaks_ends_with_an_error_event() -> None:
    broken = asyncio.Event()

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b'16\r\ndata: {"choices":[]}\n\n\r\n')
        await writer.drain()
        await broken.wait()
        writer.close()

    engine = await asyncio.start_server(break_off, "127.0.0.1", 0)
    async with engine:
        port = engine.sockets[0].getsockname()[1]
        link, client = StubLink(f"http://127.0.0.1:{port}"), Client()
        async with dispatching(link) as dispatcher:
            work = asyncio.create_task(dispatcher.serve(parsed(stream=True), PATH, client.send))
            await client.first_byte.wait()
            broken.set()
            await work
    *_, error, done, _ = client.body.split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "unavailable"
    assert done == b"data: [DONE]"
    assert link.done[0].cost_usd is None


async def test_a_client_that_leaves_ends_the_request() -> None:
    async with serving(simulated(first_token_s=30)) as engine:
        link, client = StubLink(engine.url), Client()
        gone = asyncio.Event()

        async def receive() -> dict:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with dispatching(link) as dispatcher:
            response = RoutedResponse(dispatcher, parsed(), PATH)
            call = asyncio.create_task(response({"type": "http"}, receive, client.send))
            while not engine.running:
                await asyncio.sleep(0.01)
            gone.set()
            await asyncio.wait_for(call, 2)
            while engine.running:
                await asyncio.sleep(0.01)
    assert len(link.done) == 1
    assert client.status == 0
