"""The routes of those who watch the service, for the Ingress to inherit."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from apportion.deployments.ingress.client import HeldResponse
from apportion.deployments.ingress.console.page import console_page, page_response
from apportion.deployments.ingress.metrics_page import CONTENT_TYPE, targets
from apportion.deployments.ingress.parts import Parts

watch_api = APIRouter()


class WatchRoutes:
    """Health, metrics and the console."""

    _parts: Parts

    @watch_api.get("/health")
    async def health(self, request: Request) -> Response:
        """200 when every part works and every model has a replica, else 503; the numbers of the moment to operators."""
        healthy, numbers = await self._parts.state.health()
        told = numbers if self._parts.authenticator.is_operator(request.headers) else {"healthy": healthy}
        return JSONResponse(told, status_code=200 if healthy else 503)

    @watch_api.get("/metrics", response_class=PlainTextResponse)
    async def metrics(self, request: Request) -> Response:
        """The service's metrics, as Prometheus reads them; with API keys, to operators."""
        self._parts.authenticator.admit(request.headers).check_operator()
        return Response(await self._parts.metrics.text(), media_type=CONTENT_TYPE)

    @watch_api.get("/metrics/targets")
    async def metrics_targets(self, request: Request) -> list[dict[str, Any]]:
        """Where engines tell their own metrics, as Prometheus discovers them by HTTP; with API keys, to operators."""
        self._parts.authenticator.admit(request.headers).check_operator()
        _, state = await self._parts.state.health()
        return targets(state)

    @watch_api.get("/ready")
    async def ready(self, request: Request) -> Response:
        """200 when requests can be answered: the router was there of late and a model had a replica or slept; else 503.

        Asks nobody once it is ready, so that neither a slow database nor a router that restarts takes the ingresses out
        of service.
        """
        models = await self._parts.state.ready()
        told: dict[str, Any] = {"ready": bool(models)}
        if self._parts.authenticator.is_operator(request.headers):
            told |= {"models": models, "asleep": self._parts.state.asleep}
        return JSONResponse(told, status_code=200 if models else 503)

    @watch_api.get("/console", include_in_schema=False)
    async def console(self, request: Request) -> Response:
        """The page that shows how the service does; it holds nothing before its events tell it."""
        if not self._parts.config.ingress.console:
            raise HTTPException(404)
        return page_response(console_page())

    @watch_api.get("/console/events", include_in_schema=False)
    async def console_events(self, request: Request) -> Response:
        """What the page shows, every second; to those who may see it."""
        if not self._parts.config.ingress.console:
            raise HTTPException(404)
        self._parts.authenticator.admit(request.headers).check_console()
        may_watch = partial(self._parts.authenticator.may_watch, request.headers)
        return HeldResponse(partial(self._parts.console.watched, may_watch))
