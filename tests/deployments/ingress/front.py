"""The real ingress in this process behind a real HTTP server; router and engine are played, unless they are given."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.service import ServiceConfig, parse_config
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.ingress.ingress import Ingress, api
from apportion.deployments.ingress.known_fields import ENGINE_PATHS, Kind
from apportion.deployments.ingress.routes.bulk import bulk_api
from apportion.deployments.ingress.routes.models import model_api
from apportion.deployments.ingress.routes.plans import plan_api
from apportion.deployments.ingress.routes.watching import watch_api
from apportion.deployments.ingress.tracing.middleware import Traced
from apportion.deployments.wire.channel import Listener
from apportion.deployments.wire.listening import ANY_PORT
from apportion.router.batch.messages import Reply, Report
from apportion.router.errors import UnavailableError
from tests.deployments.ingress.dispatching import StubLink, serving
from tests.deployments.local_router import DearIsGood
from tests.router.batch.plain_room import forecasts

TOKEN_CHARS = 16  # that the played predictor says a token stands for at most
CONFIG = {
    "models": [
        {
            "name": "small",
            "source": "x",
            "input_usd_per_million": 1,
            "output_usd_per_million": 1,
            "max_model_len": 1_000_000,
        }
    ],
    "predictor": {"artefact": "zoo:predictor"},
}


class _Router(StubLink):
    """Sends every request to the one engine at once; it has no state, and plans nothing."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.listener = Listener(self.exchange, ANY_PORT, "router.ports")
        self.address = SimpleNamespace(remote=partial(self.listener.start, "127.0.0.1"))
        self.state = self.route = SimpleNamespace(remote=self._absent)

    async def _absent(self, *_: Any) -> Any:
        raise UnavailableError("this router is played")

    async def exchange(self, report: Report, wait: bool) -> Reply:
        self.done.extend(report.done)
        if wait and not report.items:
            await asyncio.sleep(0.2)
        verdicts = tuple([await self.plan(item, forecasts(1)) for item in report.items])
        return Reply("router", verdicts, settled=(report.number,))


class _Ingress(Ingress.func_or_class.__mro__[1]):
    """As deployed, but for the part that Serve adds, and ended by the test."""

    def __del__(self) -> None:
        pass


@dataclass
class Front:
    """Where it listens, and what is in it."""

    server: EngineServer
    ingress: Any
    router: Any

    @property
    def door(self) -> Any:
        return self.ingress._parts.door

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.server.url.removeprefix("http://").split(":")
        return await asyncio.open_connection(host, int(port))


@contextlib.asynccontextmanager
async def ingress_before(engine: Any, **sections: dict[str, Any]) -> AsyncIterator[Front]:
    """An ingress with these sections of its configuration, in front of one engine."""
    async with serving(engine) as engine_server:
        router = _Router(engine_server.url)
        try:
            async with ingress_of(parse_config(CONFIG | sections), router) as front:
                yield front
        finally:
            router.listener.close()


@contextlib.asynccontextmanager
async def ingress_of(config: ServiceConfig, router: Any, predictor: Any = None) -> AsyncIterator[Front]:
    """An ingress before a router, of which it uses what a deployment's handle has; all that is routed is served."""
    listener = Listener((predictor or DearIsGood()).predict, ANY_PORT, "predictor.ports")

    async def token_chars(models: tuple[str, ...]) -> tuple[int | None, ...]:
        return (TOKEN_CHARS,) * len(models)

    handle = SimpleNamespace(
        address=SimpleNamespace(remote=partial(listener.start, "127.0.0.1")),
        token_chars=SimpleNamespace(remote=token_chars),
    )
    ingress = _Ingress(config, router, handle, np.full(len(config.names), 0.5))

    def routed(kind: Kind) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            response: Response = await ingress._routed(kind, request)
            return response

        return answer

    async def say(request: Request) -> Response:
        return JSONResponse(await ingress.feedback(request), status_code=202)

    routes = [Route(path, routed(kind), methods=["POST"]) for kind, path in ENGINE_PATHS.items()]
    routes.append(Route("/v1/feedback", say, methods=["POST"]))
    routes += [Route("/console", ingress.console), Route("/console/events", ingress.console_events)]
    app = FastAPI(routes=routes, exception_handlers=api.exception_handlers, middleware=[Middleware(Traced)])
    for route in (*bulk_api.routes, *model_api.routes, *plan_api.routes, *watch_api.routes):
        assert isinstance(route, APIRoute)
        app.add_api_route(route.path, getattr(ingress, route.name), methods=[*route.methods], response_model=None)
    try:
        async with serving(app) as server:
            yield Front(server, ingress, router)
    finally:
        Traced.begin = None
        await ingress._parts.close()
        listener.close()


def chat_body(**fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}]} | fields).encode()


async def answer_of(reader: asyncio.StreamReader, timeout_s: float = 10.0) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a whole answer."""
    async with asyncio.timeout(timeout_s):
        said = await reader.readuntil(b"\r\n\r\n")
        length = int(said.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(said.split()[1]), json.loads(await reader.readexactly(length))
