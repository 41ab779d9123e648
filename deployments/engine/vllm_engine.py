"""A real engine: vLLM's AsyncLLM with vLLM's own OpenAI layer, as an ASGI application.

Imported in engine replicas only, since it imports vLLM. Annotations stay real objects: FastAPI reads them.
"""

import json
import logging
from typing import Any

from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.capabilities import EngineAbilities
from apportion.deployments.engine.core_border import count_at
from apportion.deployments.engine.meter import Meter
from apportion.deployments.engine.pictures import picture_tokens
from apportion.deployments.engine.vllm_routes import add_routes
from apportion.router.errors import ConfigurationError, UnavailableError

logger = logging.getLogger(__name__)


class VLLMEngine:
    """One engine and its HTTP application."""

    def __init__(self, model: ModelConfig, llm: AsyncLLM, api: FastAPI) -> None:
        self._model = model
        self._llm = llm
        self._state = api.state
        self.app = Meter(api, model.price)
        mode = llm.vllm_config.model_config.logprobs_mode
        count_at(llm.engine_core, self.app, tells_logprobs=mode in {"raw_logprobs", "processed_logprobs"})

    @classmethod
    async def start(cls, model: ModelConfig) -> "VLLMEngine":
        """Loads the model and answers a chat and a completion, or makes an embedding, so that the first user does not
        pay for warming.

        Raises:
            ConfigurationError: vLLM does not take `engine_args`, or the engine cannot do what is said of the model.
        """
        args = parse_engine_args(model)
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        api = FastAPI(openapi_url=None)
        tasks = await llm.get_supported_tasks()
        await init_app_state(llm, api.state, args, supported_tasks=tasks)
        try:
            can = EngineAbilities.of(llm, api.state, tasks)
            if can.capabilities.images and model.all_capabilities.images:
                can = can.with_pictures_of(await picture_tokens(llm, api.state, model))
            can.check(model)
        except ConfigurationError:
            llm.shutdown()
            raise
        init_exception_handler(api)
        add_routes(api)
        engine = cls(model, llm, api)
        await engine._warm_up()
        return engine

    @property
    def slots(self) -> int:
        """Sequences that it runs at once."""
        return self._model.max_num_seqs

    @property
    def trouble(self) -> None:
        """Nothing lies behind it."""

    def check_health(self) -> None:
        """Raises: UnavailableError: the engine's core is dead."""
        if self._llm.errored:
            raise UnavailableError(f"the engine of {self._model.name} has died")

    async def probe(self) -> None:
        """Asks for one token, or for one vector."""
        await self._ask(max_tokens=1)

    def close(self) -> None:
        self._llm.shutdown()

    async def _warm_up(self) -> None:
        name = self._model.name
        state = self._state
        serving_chat = getattr(state, "openai_serving_chat", None)
        if serving_chat is not None and (serving_chat.chat_template or _has_chat_template(self._llm)):
            chat = ChatCompletionRequest(
                model=name, messages=[{"role": "user", "content": "1"}], max_tokens=2, stream=True
            )
            async for _ in await serving_chat.create_chat_completion(chat):
                pass
        await self._ask(max_tokens=2)
        if getattr(state, "serving_embedding", None) is None:
            # vLLM compiles what ranks log-probabilities when it is first asked for any, for one sequence and anew for
            # several: seconds in which the whole engine stands still.
            for prompts in (["1"], ["1", "1"]):
                completion = CompletionRequest(model=name, prompt=prompts, max_tokens=2, logprobs=2)
                await state.openai_serving_completion.create_completion(completion)

    async def _ask(self, *, max_tokens: int) -> None:
        name, state = self._model.name, self._state
        if (embed := getattr(state, "serving_embedding", None)) is not None:
            await embed(EmbeddingCompletionRequest(model=name, input="1"))
        else:
            completion = CompletionRequest(model=name, prompt="1", max_tokens=max_tokens)
            await state.openai_serving_completion.create_completion(completion)


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
