"""A dispatcher between a played router and a played client; the engines are real servers."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from apportion.deployments.config.models import ModelConfig, TimeoutsConfig
from apportion.deployments.config.service import DispatchConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.engine.replica import EngineServer
from apportion.deployments.engine.simulated import SimulatedEngine
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.ingress.unserved import Unserved
from apportion.router.batch.messages import BatchInfo, Decision, Done, RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.budget import Account
from apportion.router.unpriced import Unpriced
from tests.router.batch.plain_room import forecasts

BATCH = BatchInfo(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ())
PATH = "/v1/chat/completions"


class StubLink:
    """Sends every request to the next URL of a list, the last one again and again; records the endings."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.asked: list[RouteItem] = []
        self.done: list[Done] = []
        self.watched: dict[str, Callable[[], None]] = {}
        self.unserved = Unserved(lambda: None)

    def check(self, account: Account) -> None:
        """Nobody is refused."""

    async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
        self.asked.append(item)
        url = self.urls.pop(0) if len(self.urls) > 1 else self.urls[0]
        return Decision(item.id, "small", 0.5, 1e-6, 0.0, "mip", "mip", BATCH, f"replica-{len(self.asked)}", url)

    def watch(self, request_id: str, on_silence: Callable[[], None]) -> None:
        self.watched[request_id] = on_silence

    def finish(self, done: Done) -> None:
        self.done.append(done)


Forecast = Callable[[RouteItem, Prompt], Awaitable[Unpriced]]


async def plain_forecast(item: RouteItem, prompt: Prompt) -> Unpriced:
    return forecasts(1)


class Browser:
    """Collects what is sent to it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces: list[bytes] = []
        self.first_byte = asyncio.Event()

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self.pieces.append(message["body"])
            self.first_byte.set()


def parsed(**fields: object):
    body = {"messages": [{"role": "user", "content": "hi"}]} | fields
    return parse("chat", json.dumps(body).encode(), {}, Rules(("small",)))


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


def streaming(events: Callable[[], AsyncIterator[bytes]]) -> Starlette:
    async def answer(_: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


def simulated(**timings: Any) -> Starlette:
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
async def dispatching(
    link: StubLink,
    limits: TimeoutsConfig | None = None,
    forecast: Forecast = plain_forecast,
    signals: float = 0.0,
    **config: float,
) -> AsyncIterator[Dispatcher]:
    timeouts = {} if limits is None else {"small": limits}
    dispatcher = Dispatcher(link, forecast, DispatchConfig(**config), timeouts, signals)
    try:
        yield dispatcher
    finally:
        await dispatcher.close()
