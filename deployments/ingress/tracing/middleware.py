"""Sees requests from their first line to the last byte of their answers, whoever answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.tracing.conventions import OPERATIONS
from apportion.deployments.ingress.tracing.trace import NO_TRACE, Trace

if TYPE_CHECKING:
    from apportion.deployments.ingress.tracing.spans import Tracing

_TRACE = "apportion.trace"
Begin = Callable[[str, Mapping[str, str]], Trace]  # takes the route and the request's headers


def trace_of(request: HTTPConnection) -> Trace:
    """The trace of a request; one that does nothing where it has none."""
    trace: Trace = request.scope.get(_TRACE, NO_TRACE)
    return trace


class Traced:
    """Gives each request that is routed its trace, and tells the trace how the client was answered.

    Who traces belongs to the process: Serve freezes an application before its configuration is known.
    """

    begin: ClassVar[Begin | None] = None

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    @classmethod
    def start(cls, config: ServiceConfig) -> Tracing | None:
        """Traces from now on, where the configuration says so; the caller closes what it gets."""
        if config.tracing is None:
            return None
        from apportion.deployments.ingress.tracing.spans import Tracing  # OpenTelemetry is loaded only for this

        tracing = Tracing(config.tracing, {column.name: column.engine for column in config.columns})
        cls.begin = tracing.begin
        return tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = Traced.begin
        if begin is None or scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        route = scope["path"].removeprefix(scope.get("root_path", ""))
        if route not in OPERATIONS:  # so that there are no more names of spans than there are routes
            await self._app(scope, receive, send)
            return
        trace = begin(route, Headers(scope=scope))
        status: int | None = None
        whole = False

        async def seen(message: Message) -> None:
            nonlocal status, whole
            status = message.get("status", status)
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app({**scope, _TRACE: trace}, receive, seen)
        except Exception:
            status = 500  # as it is answered outside of this
            raise
        finally:
            trace.ended(status, whole=whole)
