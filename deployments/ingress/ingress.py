"""The Ingress: OpenAI's HTTP API; stateless, as many replicas as the traffic needs.

A request is read, forecast by the predictor and planned by the router; then bytes are piped between the client and the
engine's own port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect

from apportion.deployments.config.models import AUTO_MODEL
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.bulk.routes import BulkRoutes, bulk_api, desk_of
from apportion.deployments.ingress.client import HeldResponse, ServedResponse
from apportion.deployments.ingress.console.console import Console
from apportion.deployments.ingress.console.page import console_page, page_response
from apportion.deployments.ingress.console.reference_page import reference_page
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.door import MAX_REQUESTS, Door
from apportion.deployments.ingress.feedback import MAX_BODY_BYTES, read_feedback
from apportion.deployments.ingress.forecasting import forecaster_of, learn_token_chars
from apportion.deployments.ingress.known_fields import ENGINE_PATHS, Kind
from apportion.deployments.ingress.link import RouterLink
from apportion.deployments.ingress.metrics_page import CONTENT_TYPE, MetricsPage, targets
from apportion.deployments.ingress.naming import Naming
from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.openapi import (
    CHAT_OPERATION,
    COMPLETION_OPERATION,
    DETOKENIZE_OPERATION,
    EMBEDDING_OPERATION,
    FEEDBACK_OPERATION,
    MESSAGE_COUNT_OPERATION,
    MESSAGE_OPERATION,
    RESPONSE_OPERATION,
    ROUTE_OPERATION,
    TOKENIZE_OPERATION,
)
from apportion.deployments.ingress.prompts import Prompts
from apportion.deployments.ingress.route_items import route_items
from apportion.deployments.ingress.router_state import RouterState
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.ingress.tracing.middleware import Traced, trace_of
from apportion.deployments.keys.authenticator import Authenticator
from apportion.deployments.keys.caller import Caller
from apportion.deployments.wire.asgi import HeadAsGet, PlainPaths
from apportion.deployments.wire.calls import answer_of
from apportion.deployments.wire.channel import Channel
from apportion.deployments.wire.cors import Cors
from apportion.deployments.wire.errors import error_response, style_of
from apportion.deployments.wire.garbage import spare_what_is_loaded
from apportion.deployments.wire.headers import ignored_header, verdict_json
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.arrays import FloatArray
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.messages import Verdict
from apportion.router.errors import ApportionError, InvalidRequestError, UnknownModelError
from apportion.router.unpriced import concatenate

logger = logging.getLogger(__name__)

FEEDBACK_S = 5.0  # for the router to take what is said
# FastAPI's own pages load their scripts from elsewhere.
api = FastAPI(
    title="Apportion",
    description="One OpenAI-compatible endpoint in front of several models.",
    docs_url=None,
    redoc_url=None,
)
api.include_router(bulk_api)
api.add_middleware(Traced)  # the innermost, which sees paths as they are served
api.add_middleware(HeadAsGet)
api.add_middleware(PlainPaths)
api.add_middleware(Cors)


@api.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """What is served here."""
    return page_response(reference_page(api.openapi(), request.scope.get("root_path", "")))


@api.exception_handler(ApportionError)
async def on_apportion_error(request: Request, error: ApportionError) -> Response:
    return error_response(error, request.url.path)


@api.exception_handler(RequestValidationError)
async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
    return error_response(InvalidRequestError(str(error)), request.url.path)


@api.exception_handler(HTTPException)
@api.exception_handler(404)
@api.exception_handler(405)
async def on_http_error(request: Request, error: HTTPException) -> Response:
    docs = f"{request.scope.get('root_path', '')}/docs"
    message = f"{request.method} {request.url.path}: {error.detail}; see {docs} for what is served here"
    body = style_of(request.url.path).body(InvalidRequestError(message))
    headers = dict(error.headers or {})
    if "GET" in (allowed := headers.get("allow", headers.get("Allow", ""))).split(", "):
        headers = {"allow": f"{allowed}, HEAD"}
    return JSONResponse(body, status_code=error.status_code, headers=headers)


@api.exception_handler(ClientDisconnect)
async def on_client_gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nginx's number for it; nobody reads it


@api.exception_handler(Exception)
async def on_any_error(request: Request, error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return error_response(ApportionError("internal error; the log of the ingress has the details"), request.url.path)


# More than the door lets in: Serve's own refusal is no envelope.
@serve.deployment(max_ongoing_requests=2 * MAX_REQUESTS)
@serve.ingress(api)
class Ingress(BulkRoutes):
    """One replica of the HTTP front."""

    def __init__(
        self,
        config: ServiceConfig,
        router: DeploymentHandle,
        predictor: DeploymentHandle,
        mean_success: FloatArray,
        jobs: DeploymentHandle | None = None,
    ) -> None:
        log_to_serve()
        if config.ingress.cors is not None:
            Cors.allow(config.ingress.cors.allow_origins, config.ingress.cors.max_age_s)
        self._config = config
        self._tracing = Traced.start(config)
        self._router = router
        self._jobs = jobs  # held so that Serve deploys it; it finds its work by itself
        self._predictor = Channel(predictor.address.remote, "the predictor", config.predictor.num_replicas)
        self._forecaster = forecaster_of(config, self._predictor.call, mean_success)
        self._learning = asyncio.create_task(learn_token_chars(self._forecaster, config, predictor), context=Context())
        self._state = RouterState(router.state.remote, config.models, predictor=self._predictor_state)
        self._state.listen()
        self._console = Console(lambda: router.console.remote())
        self._metrics = MetricsPage(lambda: router.metrics.remote())
        self._naming = Naming(config.feedback, lambda: router.secret.remote())
        self._prompts = Prompts(config.records)
        self._rules = Rules.of(config, self._naming.new)
        self._desk = desk_of(config, self._rules)
        self._channel = Channel(router.address.remote, "the router")
        self._link = RouterLink(self._channel.call, self._predictor_state)
        self._authenticator = Authenticator(config)
        self._dispatcher = Dispatcher(self._link, self._forecaster.forecast, config.dispatch, config.timeouts)
        self._door = Door(config.ingress, config.dispatch.request_timeout_s)
        spare_what_is_loaded()

    async def __del__(self) -> None:
        self._state.close()
        self._naming.close()
        self._learning.cancel()
        self._forecaster.close()
        self._predictor.close()
        self._authenticator.close()
        if self._desk is not None:
            self._desk.close()
        await self._link.close()
        self._channel.close()
        await self._dispatcher.close()
        self._prompts.close()
        if self._tracing is not None:
            await self._tracing.close()

    @api.post("/v1/chat/completions", openapi_extra=CHAT_OPERATION)
    async def chat(self, request: Request) -> Response:
        return await self._routed("chat", request)

    @api.post("/v1/completions", openapi_extra=COMPLETION_OPERATION)
    async def completion(self, request: Request) -> Response:
        return await self._routed("completion", request)

    @api.post("/v1/responses", openapi_extra=RESPONSE_OPERATION)
    async def response(self, request: Request) -> Response:
        return await self._routed("response", request)

    @api.post("/v1/messages", openapi_extra=MESSAGE_OPERATION)
    async def message(self, request: Request) -> Response:
        return await self._routed("message", request)

    @api.post("/v1/messages/count_tokens", openapi_extra=MESSAGE_COUNT_OPERATION)
    async def count_message(self, request: Request) -> Response:
        """Input tokens of a message, on the model that would answer it."""
        return await self._routed("message_count", request)

    @api.post("/tokenize", openapi_extra=TOKENIZE_OPERATION)
    async def tokenize(self, request: Request) -> Response:
        """A named model's tokens of a prompt or of messages, as its engine reads them."""
        return await self._routed("tokenize", request)

    @api.post("/detokenize", openapi_extra=DETOKENIZE_OPERATION)
    async def detokenize(self, request: Request) -> Response:
        """The text of a named model's tokens."""
        return await self._routed("detokenize", request)

    @api.post("/v1/embeddings", openapi_extra=EMBEDDING_OPERATION)
    async def embed(self, request: Request) -> Response:
        """Vectors of texts."""
        return await self._routed("embedding", request)

    @api.get("/v1/models")
    async def models(self, request: Request) -> dict[str, Any]:
        caller = self._authenticator.admit(request.headers)
        usable = self._usable(caller)
        return {"object": "list", "data": await self._state.described((AUTO_MODEL, *usable), usable)}

    @api.get("/v1/models/{name:path}")
    async def model(self, name: str, request: Request) -> dict[str, Any]:
        caller = self._authenticator.admit(request.headers)
        usable = self._usable(caller)
        if name not in (AUTO_MODEL, *usable):
            path = request.url.path.removesuffix(f"/{name}")
            raise UnknownModelError(f"the model {name!r} does not exist; GET {path} lists those that do")
        return (await self._state.described((name,), usable))[0]

    @api.post("/v1/route", openapi_extra=ROUTE_OPERATION)
    async def route(self, request: Request, response: Response) -> dict[str, Any]:
        """Plans requests as one batch and runs none of them."""
        caller = self._authenticator.admit_request(request.headers)
        caller.check_route()
        limits = self._config.ingress.route
        with self._door.request() as upload:
            raw = await upload.body(request, limits.max_body_bytes)
            parsed = route_items(raw, request.headers, self._rules, caller, limits.max_items)
            response.raw_headers += ignored_header(sorted({name for one in parsed for name in one.ignored}))
            longest_s = min(limits.timeout_s, self._config.dispatch.request_timeout_s)
            left_s = min(longest_s, *(one.item.timeout_s for one in parsed)) - upload.seconds()
            verdicts = await answer_of(self._previewed(parsed), left_s)
        return {"object": "list", "data": [verdict_json(i, verdict) for i, verdict in enumerate(verdicts)]}

    @api.post("/v1/feedback", openapi_extra=FEEDBACK_OPERATION, status_code=202)
    async def feedback(self, request: Request) -> dict[str, str]:
        """What a caller thinks of one of its answers."""
        caller = self._authenticator.admit_feedback(request.headers)
        with self._door.request() as upload:
            raw = await upload.body(request, MAX_BODY_BYTES)
            await self._naming.ready()
            said = read_feedback(raw, caller.account, self._naming, self._config.feedback)
            await answer_of(self._router.feedback.remote(caller.account, said), FEEDBACK_S)
        return {"object": "feedback", "id": said.id, "key": said.key}

    @api.get("/health")
    async def health(self, request: Request) -> Response:
        """200 when every part works and every model has a replica, else 503; the numbers of the moment to operators."""
        healthy, numbers = await self._state.health()
        told = numbers if self._authenticator.is_operator(request.headers) else {"healthy": healthy}
        return JSONResponse(told, status_code=200 if healthy else 503)

    @api.get("/metrics", response_class=PlainTextResponse)
    async def metrics(self, request: Request) -> Response:
        """The service's metrics, as Prometheus reads them; with API keys, to operators."""
        self._authenticator.admit(request.headers).check_operator()
        return Response(await self._metrics.text(), media_type=CONTENT_TYPE)

    @api.get("/metrics/targets")
    async def metrics_targets(self, request: Request) -> list[dict[str, Any]]:
        """Where engines tell their own metrics, as Prometheus discovers them by HTTP; with API keys, to operators."""
        self._authenticator.admit(request.headers).check_operator()
        _, state = await self._state.health()
        return targets(state)

    @api.get("/ready")
    async def ready(self, request: Request) -> Response:
        """200 when requests can be answered: the router was there of late and a model had a replica; else 503.

        Asks nobody once it is ready, so that neither a slow database nor a router that restarts takes the ingresses out
        of service.
        """
        models = await self._state.ready()
        told = {"models": models} if self._authenticator.is_operator(request.headers) else {}
        return JSONResponse({"ready": bool(models), **told}, status_code=200 if models else 503)

    @api.get("/console", include_in_schema=False)
    async def console(self, request: Request) -> Response:
        """The page that shows how the service does; it holds nothing before its events tell it."""
        if not self._config.ingress.console:
            raise HTTPException(404)
        return page_response(console_page())

    @api.get("/console/events", include_in_schema=False)
    async def console_events(self, request: Request) -> Response:
        """What the page shows, every second; to those who may see it."""
        if not self._config.ingress.console:
            raise HTTPException(404)
        self._authenticator.admit(request.headers).check_console()
        may_watch = partial(self._authenticator.may_watch, request.headers)
        return HeldResponse(partial(self._console.watched, may_watch))

    async def _previewed(self, parsed: Sequence[ParsedRequest]) -> list[Verdict]:
        """What would be decided. The router counts the requests before anybody works on them."""
        await self._router.admit_plans.remote(parsed[0].item.account, len(parsed))
        forecasts = [self._forecaster.forecast(one.item, one.prompt, planned_only=True) for one in parsed]
        forecast = concatenate(await asyncio.gather(*forecasts))
        verdicts: list[Verdict] = await self._router.route.remote([one.item for one in parsed], forecast)
        return verdicts

    def _predictor_state(self) -> BreakerState:
        return self._forecaster.state

    def _usable(self, caller: Caller) -> tuple[str, ...]:
        return tuple(name for name in self._config.names if caller.may_use(name))

    async def _routed(self, kind: Kind, request: Request) -> Response:
        with self._link.unserved.counted():
            caller = self._authenticator.admit_request(request.headers)
        return HeldResponse(partial(self._admitted, kind, request, caller))

    @contextlib.asynccontextmanager
    async def _admitted(self, kind: Kind, request: Request, caller: Caller) -> AsyncIterator[Response]:
        with contextlib.ExitStack() as held:
            with self._link.unserved.counted():
                upload = held.enter_context(self._door.request())
                await self._naming.ready()
                # Nothing but `parsed` holds the content, so that it can be let go of while the answer still runs.
                parsed = parse(kind, await upload.body(request), request.headers, self._rules, caller)
            parsed.batch_told = caller.operator or self._config.ingress.batch_for_all

            def forget() -> None:
                self._prompts.keep(parsed.item, parsed.prompt)
                parsed.forget()
                upload.drop()

            yield ServedResponse(
                partial(
                    self._dispatcher.serve,
                    parsed,
                    ENGINE_PATHS[kind],
                    arrived_s=upload.arrived_s,
                    trace=trace_of(request),
                ),
                ignored_header(parsed.ignored),
                stall_s=self._config.dispatch.client_stall_s,
                on_answer=forget,
            )
