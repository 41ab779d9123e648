"""An engine's own HTTP port: uvicorn in the event loop that the engine lives in."""

from __future__ import annotations

import asyncio
import contextlib
import hmac

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from apportion.deployments.wire.engine_headers import TOKEN_HEADER
from apportion.deployments.wire.listening import ANY_PORT, listen
from apportion.router.errors import UnavailableError

# Longer than aiohttp keeps an idle connection (15 s), so that none is closed just as a request goes out on it.
KEEP_ALIVE_S = 75
METRICS = "/metrics"  # for Prometheus, which knows no token


class EngineServer:
    """Uvicorn on a port of one address, in the running event loop; counts what it is answering.

    Args:
        host: an IPv4 or IPv6 address, or a name.
        ports: the first and the last that may be used; the first free one is.
        token: answered is only who sends it; None: anyone.

    Raises:
        ConfigurationError: all of these ports are taken.
    """

    def __init__(self, app: ASGIApp, host: str, ports: tuple[int, int] = ANY_PORT, token: str | None = None) -> None:
        self._app = app
        self._token = token
        self._socket = listen(host, ports, "dispatch.engine_ports")
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
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
            app = self._app if self._is_known(scope) else _STRANGER
            await app(scope, receive, send)
        finally:
            self.running -= 1

    def _is_known(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] == METRICS:
            return True
        return hmac.compare_digest(Headers(scope=scope).get(TOKEN_HEADER, "").encode(), self._token.encode())


# 503: an ingress of the service comes here only where another engine was before, and then tries elsewhere.
_STRANGER = JSONResponse(
    UnavailableError("this engine answers its service's ingresses only; ask one of them").envelope(), status_code=503
)
