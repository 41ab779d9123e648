"""A real engine: vLLM's AsyncLLM with vLLM's own OpenAI layer, as an ASGI application.

Imported in engine replicas only, since it imports vLLM. Annotations stay real objects: FastAPI reads them.
"""

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.utils.api_utils import validate_json_request, with_cancellation
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.prometheus import get_prometheus_registry

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.capabilities import EngineAbilities
from apportion.deployments.engine.core_border import count_at
from apportion.deployments.engine.meter import Meter, Usage, current_usage
from apportion.deployments.wire.settlement import settled_comment, settled_header
from apportion.router.errors import ConfigurationError, UnavailableError

logger = logging.getLogger(__name__)


class VLLMEngine:
    """One engine and its HTTP application."""

    def __init__(self, model: ModelConfig, llm: AsyncLLM, api: FastAPI) -> None:
        self._model = model
        self._llm = llm
        self._state = api.state
        self.app = Meter(api, model.price)
        count_at(llm.engine_core, self.app)

    @classmethod
    async def start(cls, model: ModelConfig) -> "VLLMEngine":
        """Loads the model and answers one chat and one completion, so that the first user does not pay for warming.

        Raises:
            ConfigurationError: vLLM does not take `engine_args`, or the engine cannot do what is said of the model.
        """
        args = parse_engine_args(model)
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        api = FastAPI(openapi_url=None)
        tasks = await llm.get_supported_tasks()
        await init_app_state(llm, api.state, args, supported_tasks=tasks)
        try:
            EngineAbilities.of(llm, api.state, tasks).check(model)
        except ConfigurationError:
            llm.shutdown()
            raise
        init_exception_handler(api)
        _add_routes(api)
        engine = cls(model, llm, api)
        await engine._warm_up()
        return engine

    def check_health(self) -> None:
        """Raises: UnavailableError: the engine's core is dead."""
        if self._llm.errored:
            raise UnavailableError(f"the engine of {self._model.name} has died")

    async def probe(self) -> None:
        """Asks for one token."""
        await self._complete(max_tokens=1)

    def close(self) -> None:
        self._llm.shutdown()

    async def _warm_up(self) -> None:
        name = self._model.name
        state = self._state
        if getattr(state.openai_serving_chat, "chat_template", None) or _has_chat_template(self._llm):
            chat = ChatCompletionRequest(
                model=name, messages=[{"role": "user", "content": "1"}], max_tokens=2, stream=True
            )
            async for _ in await state.openai_serving_chat.create_chat_completion(chat):
                pass
        await self._complete(max_tokens=2)

    async def _complete(self, *, max_tokens: int) -> None:
        completion = CompletionRequest(model=self._model.name, prompt="1", max_tokens=max_tokens)
        await self._state.openai_serving_completion.create_completion(completion)


def _has_chat_template(llm: AsyncLLM) -> bool:
    return bool(getattr(llm.get_tokenizer(), "chat_template", None))


def parse_engine_args(model: ModelConfig) -> Any:
    """vLLM's own parser reads the model's arguments, so every one of its options works and wrong ones are named.

    Raises:
        ConfigurationError: an argument is unknown or has a wrong value.
    """
    values = {
        "model": model.resolved_source,
        "served_model_name": model.name,
        "max_model_len": model.max_model_len,
        "max_num_seqs": model.max_num_seqs,
        **model.engine_args,
    }
    arguments = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None and value != []:
            arguments += [f"--{flag}", *map(_argument, value if isinstance(value, list) else [value])]
    parser = make_arg_parser(_Parser())
    args = parser.parse_args(arguments)
    validate_parsed_serve_args(args)
    return args


def _argument(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM ships no types
    """Raises instead of ending the process."""

    def error(self, message: str) -> None:
        raise ConfigurationError(f"engine_args: {message}; see `vllm serve --help` for what vLLM takes")


def _add_routes(app: FastAPI) -> None:
    state = app.state

    @app.post("/v1/chat/completions", dependencies=[Depends(validate_json_request)])
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_chat_completion(request: ChatCompletionRequest, raw_request: Request) -> Response:
        return await _answer(state.openai_serving_chat.create_chat_completion, request, raw_request)

    @app.post("/v1/completions", dependencies=[Depends(validate_json_request)])
    @with_cancellation  # type: ignore[untyped-decorator]
    async def create_completion(request: CompletionRequest, raw_request: Request) -> Response:
        return await _answer(state.openai_serving_completion.create_completion, request, raw_request)

    @app.get("/metrics")
    async def metrics() -> Response:
        """vLLM's own numbers, for Prometheus."""
        return Response(generate_latest(get_prometheus_registry()), media_type=CONTENT_TYPE_LATEST)


async def _answer(
    create: Callable[..., Awaitable[Any]],
    request: ChatCompletionRequest | CompletionRequest,
    raw_request: Request,
) -> Response:
    """vLLM's answer, with the settled cost in a header or, streamed, in a comment before the end."""
    options = request.stream_options
    wants_usage = bool(options and options.include_usage)
    if request.stream and not wants_usage:
        request.stream_options = StreamOptions(include_usage=True)
    used = current_usage()
    answer = await create(request, raw_request)
    if isinstance(answer, ErrorResponse):
        return JSONResponse(answer.model_dump(), status_code=answer.error.code)
    if isinstance(answer, AsyncGenerator):
        return StreamingResponse(_settled(answer, used, wants_usage), media_type="text/event-stream")
    usage = answer.usage
    cost_usd = used.settle(usage.prompt_tokens, usage.completion_tokens or 0)
    return Response(answer.model_dump_json(), media_type="application/json", headers=dict([settled_header(cost_usd)]))


async def _settled(events: AsyncGenerator[str, None], used: Usage, wants_usage: bool) -> AsyncGenerator[str, None]:
    async for event in events:
        if '"choices":[]' in event and '"usage":{' in event:
            usage = json.loads(event.removeprefix("data: "))["usage"]
            cost_usd = used.settle(usage["prompt_tokens"], usage.get("completion_tokens") or 0)
            yield event + settled_comment(cost_usd) if wants_usage else settled_comment(cost_usd)
        else:
            yield event
