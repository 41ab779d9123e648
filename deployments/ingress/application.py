"""The HTTP application: how every path is read, and how what goes wrong is answered."""

from __future__ import annotations

import logging

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from apportion.deployments.ingress.console.page import page_response
from apportion.deployments.ingress.console.reference_page import reference_page
from apportion.deployments.ingress.tracing.middleware import Traced
from apportion.deployments.wire.asgi import HeadAsGet, PlainPaths
from apportion.deployments.wire.cors import Cors
from apportion.deployments.wire.errors import error_response, style_of
from apportion.router.errors import ApportionError, InvalidRequestError

logger = logging.getLogger(__name__)


def application(*routers: APIRouter) -> FastAPI:
    """The application of these routes."""
    # FastAPI's own pages load their scripts from elsewhere.
    api = FastAPI(
        title="Apportion",
        description="One OpenAI-compatible endpoint in front of several models.",
        docs_url=None,
        redoc_url=None,
    )
    for router in routers:
        api.include_router(router)
    api.add_middleware(Traced)  # the innermost, which sees paths as they are served
    api.add_middleware(HeadAsGet)
    api.add_middleware(PlainPaths)
    api.add_middleware(Cors)

    async def docs(request: Request) -> Response:
        """What is served here."""
        return page_response(reference_page(api.openapi(), request.scope.get("root_path", "")))

    api.get("/docs", include_in_schema=False)(docs)
    api.exception_handler(ApportionError)(on_apportion_error)
    api.exception_handler(RequestValidationError)(on_validation_error)
    for raised in (HTTPException, 404, 405):
        api.exception_handler(raised)(on_http_error)
    api.exception_handler(ClientDisconnect)(on_client_gone)
    api.exception_handler(Exception)(on_any_error)
    return api


async def on_apportion_error(request: Request, error: ApportionError) -> Response:
    return error_response(error, request.url.path)


async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
    return error_response(InvalidRequestError(str(error)), request.url.path)


async def on_http_error(request: Request, error: HTTPException) -> Response:
    docs = f"{request.scope.get('root_path', '')}/docs"
    message = f"{request.method} {request.url.path}: {error.detail}; see {docs} for what is served here"
    body = style_of(request.url.path).body(InvalidRequestError(message))
    headers = dict(error.headers or {})
    if "GET" in (allowed := headers.get("allow", headers.get("Allow", ""))).split(", "):
        headers = {"allow": f"{allowed}, HEAD"}
    return JSONResponse(body, status_code=error.status_code, headers=headers)


async def on_client_gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nginx's number for it; nobody reads it


async def on_any_error(request: Request, error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return error_response(ApportionError("internal error; the log of the ingress has the details"), request.url.path)
