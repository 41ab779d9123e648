"""The routes whose requests a model answers, for the Ingress to inherit."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from apportion.deployments.ingress.client import HeldResponse, ServedResponse
from apportion.deployments.ingress.known_fields import ENGINE_PATHS, Kind
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.openapi import (
    CHAT_OPERATION,
    COMPLETION_OPERATION,
    DETOKENIZE_OPERATION,
    EMBEDDING_OPERATION,
    MESSAGE_COUNT_OPERATION,
    MESSAGE_OPERATION,
    RESPONSE_OPERATION,
    TOKENIZE_OPERATION,
)
from apportion.deployments.ingress.parts import Parts
from apportion.deployments.ingress.tracing.middleware import trace_of
from apportion.deployments.keys.caller import Caller
from apportion.deployments.wire.headers import ignored_header

answer_api = APIRouter()


class AnswerRoutes:
    """Reads a request, has it planned, and pipes its answer."""

    _parts: Parts

    @answer_api.post("/v1/chat/completions", openapi_extra=CHAT_OPERATION)
    async def chat(self, request: Request) -> Response:
        return await self._routed("chat", request)

    @answer_api.post("/v1/completions", openapi_extra=COMPLETION_OPERATION)
    async def completion(self, request: Request) -> Response:
        return await self._routed("completion", request)

    @answer_api.post("/v1/responses", openapi_extra=RESPONSE_OPERATION)
    async def response(self, request: Request) -> Response:
        return await self._routed("response", request)

    @answer_api.post("/v1/messages", openapi_extra=MESSAGE_OPERATION)
    async def message(self, request: Request) -> Response:
        return await self._routed("message", request)

    @answer_api.post("/v1/messages/count_tokens", openapi_extra=MESSAGE_COUNT_OPERATION)
    async def count_message(self, request: Request) -> Response:
        """Input tokens of a message, on the model that would answer it."""
        return await self._routed("message_count", request)

    @answer_api.post("/tokenize", openapi_extra=TOKENIZE_OPERATION)
    async def tokenize(self, request: Request) -> Response:
        """A named model's tokens of a prompt or of messages, as its engine reads them."""
        return await self._routed("tokenize", request)

    @answer_api.post("/detokenize", openapi_extra=DETOKENIZE_OPERATION)
    async def detokenize(self, request: Request) -> Response:
        """The text of a named model's tokens."""
        return await self._routed("detokenize", request)

    @answer_api.post("/v1/embeddings", openapi_extra=EMBEDDING_OPERATION)
    async def embed(self, request: Request) -> Response:
        """Vectors of texts."""
        return await self._routed("embedding", request)

    async def _routed(self, kind: Kind, request: Request) -> Response:
        with self._parts.lines.link.unserved.counted():
            caller = self._parts.authenticator.admit_request(request.headers)
        return HeldResponse(partial(self._admitted, kind, request, caller))

    @contextlib.asynccontextmanager
    async def _admitted(self, kind: Kind, request: Request, caller: Caller) -> AsyncIterator[Response]:
        with contextlib.ExitStack() as held:
            with self._parts.lines.link.unserved.counted():
                upload = held.enter_context(self._parts.door.request())
                await self._parts.naming.ready()
                # Nothing but `parsed` holds the content, so that it can be let go of while the answer still runs.
                parsed = parse(kind, await upload.body(request), request.headers, self._parts.rules, caller)
            parsed.batch_told = caller.operator or self._parts.config.ingress.batch_for_all

            def forget() -> None:
                self._parts.prompts.keep(parsed.item, parsed.prompt)
                parsed.forget()
                upload.drop()

            yield ServedResponse(
                partial(
                    self._parts.dispatcher.serve,
                    parsed,
                    ENGINE_PATHS[kind],
                    arrived_s=upload.arrived_s,
                    trace=trace_of(request),
                ),
                ignored_header(parsed.ignored),
                stall_s=self._parts.config.dispatch.client_stall_s,
                on_answer=forget,
            )
