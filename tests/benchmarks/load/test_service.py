import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.engine.server import EngineServer
from benchmarks.load.service import engine_urls

REPLICAS = {
    "a": {"model": "wren", "url": "http://1"},
    "b": {"model": "wren", "url": "http://2"},
    "c": {"model": "heron", "url": "http://3"},
}


async def urls_of(unready: int, timeout_s: float) -> dict[str, str]:
    """Of a service that is not healthy the first times that it is asked."""
    asked = 0

    async def health(_: Request) -> Response:
        nonlocal asked
        asked += 1
        return JSONResponse({"replicas": REPLICAS}, status_code=503 if asked <= unready else 200)

    server = EngineServer(Starlette(routes=[Route("/health", health)]), "127.0.0.1")
    await server.start()
    try:
        return await asyncio.to_thread(engine_urls, server.url, timeout_s)
    finally:
        await server.stop()


async def test_the_first_replica_of_every_model_once_all_are_ready() -> None:
    assert await urls_of(unready=1, timeout_s=10) == {"wren": "http://1", "heron": "http://3"}


async def test_a_service_that_does_not_get_ready_is_told_and_not_waited_for() -> None:
    with pytest.raises(TimeoutError, match="/health"):
        await urls_of(unready=99, timeout_s=0.2)
