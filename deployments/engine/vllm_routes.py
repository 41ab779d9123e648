"""vLLM's own layers of each API as routes of an engine, with the settled cost in what they answer.

Imported in engine replicas only, since it imports vLLM. Annotations stay real objects: FastAPI reads them.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation
from vllm.v1.metrics.prometheus import get_prometheus_registry

from apportion.deployments.engine.meter import Usage, current_usage
from apportion.deployments.wire.settlement import Settled, settled_comment, settled_headers

# Tokens of a prompt that Anthropic's API does not count among those of the input.
_BESIDE_INPUT = ("cache_read_input_tokens", "cache_creation_input_tokens")
# A stream's text with the settled cost, from vLLM's events.
Settle = Callable[[AsyncGenerator[Any, None], Usage], AsyncIterator[str]]


def add_routes(app: FastAPI) -> None:
    """Adds all that this service's ingresses ask for, and vLLM's own numbers."""
    state = app.state
    checked = [Depends(validate_json_request)]

    @app.post("/v1/chat/completions", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_chat_completion(request: ChatCompletionRequest, raw_request: Request) -> Response:
        return await _complete(state.openai_serving_chat.create_chat_completion, request, raw_request)

    @app.post("/v1/completions", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_completion(request: CompletionRequest, raw_request: Request) -> Response:
        return await _complete(state.openai_serving_completion.create_completion, request, raw_request)

    @app.post("/v1/responses", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_response(request: ResponsesRequest, raw_request: Request) -> Response:
        answer = state.openai_serving_responses.create_responses(request, raw_request)
        return await _answer(answer, _response_events)

    @app.post("/v1/messages", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_message(request: AnthropicMessagesRequest, raw_request: Request) -> Response:
        answer = state.anthropic_serving_messages.create_messages(request, raw_request)
        return await _answer(answer, _message_events, exclude_none=True)

    @app.post("/v1/messages/count_tokens", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def count_message(request: AnthropicCountTokensRequest, raw_request: Request) -> Response:
        return await _unpaid(state.anthropic_serving_messages.count_tokens(request, raw_request))

    @app.post("/v1/embeddings", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_embedding(request: EmbeddingRequest, raw_request: Request) -> Response:
        answer: Response = await state.serving_embedding(request, raw_request)
        # As it was counted on its way into the core: reading vLLM's whole answer again would take longer.
        answer.headers.update(settled_headers(current_usage().settled))
        return answer

    @app.post("/tokenize", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def tokenize(request: TokenizeRequest, raw_request: Request) -> Response:
        return await _unpaid(state.serving_tokenization.create_tokenize(request, raw_request))

    @app.post("/detokenize", dependencies=checked)
    @with_cancellation  # type: ignore[untyped-decorator]
    async def detokenize(request: DetokenizeRequest, raw_request: Request) -> Response:
        return await _unpaid(state.serving_tokenization.create_detokenize(request, raw_request))

    @app.get("/metrics")
    async def metrics() -> Response:
        """vLLM's own numbers, for Prometheus."""
        return Response(generate_latest(get_prometheus_registry()), media_type=CONTENT_TYPE_LATEST)


async def _complete(
    create: Callable[..., Awaitable[Any]], request: ChatCompletionRequest | CompletionRequest, raw_request: Request
) -> Response:
    options = request.stream_options
    wants_usage = bool(options and options.include_usage)
    if request.stream and not wants_usage:
        request.stream_options = StreamOptions(include_usage=True)

    async def settled(events: AsyncGenerator[str, None], used: Usage) -> AsyncIterator[str]:
        async for event in events:
            if '"choices":[]' in event and '"usage":{' in event:
                comment = settled_comment(_settle(used, json.loads(event.removeprefix("data: "))["usage"]))
                yield event + comment if wants_usage else comment
            else:
                yield event

    return await _answer(create(request, raw_request), settled)


async def _answer(answering: Awaitable[Any], settle: Settle, *, exclude_none: bool = False) -> Response:
    """vLLM's answer, with the settled cost in a header or, streamed, in a comment at the end."""
    used = current_usage()
    answer = await answering
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    if isinstance(answer, AsyncGenerator):
        return StreamingResponse(settle(answer, used), media_type="text/event-stream")
    headers = settled_headers(_settle(used, answer.usage.model_dump()))
    body = answer.model_dump_json(by_alias=True, exclude_none=exclude_none)
    return Response(body, media_type="application/json", headers=headers)


async def _unpaid(answering: Awaitable[Any]) -> Response:
    """vLLM's answer to what generates nothing."""
    answer = await answering
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    headers = settled_headers(current_usage().settle(0, 0))
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


async def _message_events(events: AsyncGenerator[str, None], used: Usage) -> AsyncIterator[str]:
    async for event in events:
        if event.startswith("event: message_delta\n"):
            event += settled_comment(_settle(used, json.loads(event.split("data: ", 1)[1])["usage"]))
        yield event


async def _response_events(events: AsyncGenerator[Any, None], used: Usage) -> AsyncIterator[str]:
    async for event in events:
        text = f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"
        if event.type == "response.completed" and event.response.usage is not None:
            text += settled_comment(_settle(used, event.response.usage.model_dump()))
        yield text


def _settle(used: Usage, counted: dict[str, Any]) -> Settled:
    """Lengths and cost of what an answer counts in the names of its API."""
    names = ("prompt_tokens", "input_tokens", *_BESIDE_INPUT)
    prompt_tokens = sum(counted.get(name) or 0 for name in names)
    completion_tokens = counted.get("completion_tokens") or counted.get("output_tokens") or 0
    return used.settle(prompt_tokens, completion_tokens)
