"""An engine's own HTTP port: uvicorn in the event loop that the engine lives in."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

# Longer than aiohttp keeps an idle connection (15 s), so that none is closed just as a request goes out on it.
KEEP_ALIVE_S = 75


class EngineServer:
    """Uvicorn on a free port of one address, in the running event loop; counts what it is answering."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._socket = socket.create_server((host, 0), backlog=1024)
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self.running = 0
        config = uvicorn.Config(
            self._count,
            interface="asgi3",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]  # signals are Ray's
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.running -= 1
