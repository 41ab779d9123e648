"""What a model can do, as the configuration states it or as its engine's arguments tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from apportion.deployments.config.external import ExternalConfig
from apportion.router.batch.capabilities import UNLIMITED, Capabilities
from apportion.router.checked import Section
from apportion.router.prediction.tokens import TokenizerSource

# What capabilities are told from; replicas of one model must agree in them, as in what they count by.
CAPABILITY_ARGUMENTS = (
    "convert",
    "enable_auto_tool_choice",
    "limit_mm_per_prompt",
    "max_logprobs",
    "reasoning_parser",
    "runner",
    "tool_call_parser",
)
DEFAULT_MAX_LOGPROBS = 20  # vLLM's
DEFAULT_STEP_TOKENS = 2048  # what vLLM takes for max_num_batched_tokens within another program
_MAX_STEP_LOGPROBS_BYTES = 1 << 30
_FLOAT_BYTES = 4


class CapabilitiesConfig(Section):
    """What a model can do. Requests go only to models that can do what they ask for; engines are checked at start."""

    embeddings: bool | None = Field(None, description="Makes vectors of texts. Null: with `runner: pooling`.")
    chat: bool | None = Field(None, description="Null: unless its folder holds no chat template, or it generates none.")
    completions: bool | None = Field(None, description="Of a text. Null: unless it generates none (`runner: pooling`).")
    tools: bool | None = Field(
        None,
        description="Calls tools where it likes. Null: with enable_auto_tool_choice and tool_call_parser; of an "
        "external model, if it answers chats.",
    )
    tool_choice: bool | None = Field(None, description="Can be made to call a tool, or a given one. Null: as `tools`.")
    parallel_tool_calls: bool | None = Field(None, description="Several calls in a turn. Null: as `tools`.")
    structured_outputs: bool = Field(True, description="Answers by a JSON schema, a grammar, or a choice.")
    reasoning: bool | None = Field(
        None, description="Thinks before it answers, as much as asked. Null: with reasoning_parser."
    )
    logprobs: bool = Field(True, description="Tells log probabilities, of as many tokens as max_logprobs allows.")
    prompt_logprobs: bool | None = Field(
        None,
        description="Tells log probabilities of the prompt's own tokens too. The engine then holds two tables of the "
        "whole vocabulary for a step's tokens, for which vLLM sets no memory aside, and dies where there is none. "
        "Null: where these take at most 1 GiB, by `vocab_size` of its folder's config.json and max_num_batched_tokens.",
    )
    images: int | None = Field(
        None, ge=0, description="Most pictures of a request. Null: as limit_mm_per_prompt says, else none."
    )
    tokens_per_image: int | None = Field(
        None,
        ge=1,
        description="Most tokens of a picture, with what stands around it and without the placeholder of the chat "
        "template; each is counted as so many. An engine that starts says the number where this is too small.",
    )
    audio: int | None = Field(
        None, ge=0, description="Most audio clips of a request. Null: as limit_mm_per_prompt says, else none."
    )
    tokens_per_audio: int | None = Field(None, ge=1, description="Most tokens of an audio clip; as tokens_per_image.")

    @model_validator(mode="after")
    def _calls_need_tools(self) -> CapabilitiesConfig:
        if self.tools is False and (self.tool_choice or self.parallel_tool_calls):
            raise ValueError("tool_choice and parallel_tool_calls are kinds of tool calls; leave `tools` out or true")
        return self

    @property
    def media_tokens(self) -> tuple[int, int]:
        """The most that a picture and an audio clip count for."""
        return self.tokens_per_image or 0, self.tokens_per_audio or 0

    def of(
        self,
        arguments: Mapping[str, Any],
        tokenizer: TokenizerSource,
        *,
        real: bool = True,
        scores_prompts: bool = False,
    ) -> Capabilities:
        """All that the model can do.

        Args:
            arguments: its engine's.
            tokenizer: whose chat template it has.
            real: whether its engine is; one that is simulated has fewer endpoints.
            scores_prompts: its engine has the memory for log probabilities of prompts.

        Raises:
            ValueError: nothing says how many tokens a picture or a clip is.
        """
        pools = arguments.get("runner") == "pooling"
        generates = not pools and arguments.get("convert") not in {"embed", "classify"}
        parses_calls = bool(arguments.get("enable_auto_tool_choice") and arguments.get("tool_call_parser"))
        tools = _or(self.tools, parses_calls or bool(self.tool_choice or self.parallel_tool_calls))
        chat = _or(self.chat, generates and may_have_template(tokenizer))
        return Capabilities(
            chat=chat,
            completions=_or(self.completions, generates),
            tools=tools,
            tool_choice=_or(self.tool_choice, bool(tools)),
            parallel_tool_calls=_or(self.parallel_tool_calls, bool(tools)),
            structured_outputs=int(self.structured_outputs and generates),
            reasoning=_or(self.reasoning, bool(arguments.get("reasoning_parser"))),
            logprobs=max_logprobs(arguments.get("max_logprobs")) if self.logprobs and generates else 0,
            prompt_logprobs=_or(self.prompt_logprobs, self.logprobs and generates and scores_prompts),
            images=_items("image", self.images, self.tokens_per_image, arguments),
            audio=_items("audio", self.audio, self.tokens_per_audio, arguments),
            embeddings=_or(self.embeddings, pools and arguments.get("convert") != "classify"),
            responses=int(chat and real),
            messages=int(chat and real),
            tokenize=int(real),
        )

    def of_endpoints(self, external: ExternalConfig) -> Capabilities:
        """All that somebody else's model can do: where it answers is listed, what else it does is stated.

        Raises:
            ValueError: nothing says how many tokens a picture or a clip is, or the endpoints say something else.
        """
        named = {name: name in external.endpoints for name in ("chat", "completions", "embeddings")}
        for name, there in named.items():
            if getattr(self, name) not in (None, there):
                raise ValueError(f"capabilities.{name}: external.endpoints says where the model answers; name it there")
        generates = named["chat"] or named["completions"]
        chat = named["chat"]
        tools = _or(self.tools, chat)
        return Capabilities(
            chat=int(chat),
            completions=int(named["completions"]),
            tools=tools,
            tool_choice=_or(self.tool_choice, bool(tools)),
            parallel_tool_calls=_or(self.parallel_tool_calls, bool(tools)),
            structured_outputs=int(self.structured_outputs and generates),
            reasoning=_or(self.reasoning, False),
            logprobs=DEFAULT_MAX_LOGPROBS if self.logprobs and generates else 0,
            prompt_logprobs=_or(self.prompt_logprobs, False),
            images=_items("image", self.images, self.tokens_per_image, {}),
            audio=_items("audio", self.audio, self.tokens_per_audio, {}),
            embeddings=int(named["embeddings"]),
            responses=int("responses" in external.endpoints),
            messages=int("messages" in external.endpoints),
        )


def max_logprobs(given: int | None) -> int:
    """How many log probabilities an engine tells at a place by its argument `max_logprobs`."""
    most = DEFAULT_MAX_LOGPROBS if given is None else int(given)
    return UNLIMITED if most == -1 else most


def may_have_template(tokenizer: TokenizerSource) -> bool:
    """Whether there is a chat template; a hub's tokenizer, which is not looked at here, is trusted to have one."""
    if tokenizer.source is None:
        return True
    folder = Path(tokenizer.source)
    if tokenizer.chat_template is not None or not folder.is_dir():
        return True
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json", "chat_templates")):
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8", errors="replace")


def step_logprobs_fit(source: str, tokens: int) -> bool:
    """Whether logits and log probabilities of so many tokens are few; no, where nobody says how many a token has."""
    try:
        config = json.loads((Path(source) / "config.json").read_bytes())
        vocabulary = int(config.get("vocab_size") or config["text_config"]["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return vocabulary * tokens * 2 * _FLOAT_BYTES <= _MAX_STEP_LOGPROBS_BYTES


def _or(stated: bool | None, told: bool) -> int:
    return int(told if stated is None else stated)


def _items(kind: str, stated: int | None, tokens: int | None, arguments: Mapping[str, Any]) -> int:
    limits = arguments.get("limit_mm_per_prompt")
    limit = limits.get(kind, 0) if isinstance(limits, Mapping) else 0
    if isinstance(limit, Mapping):  # with the sizes to reckon with
        limit = limit.get("count", 0)
    most = int(limit) if stated is None else stated
    if most and tokens is None:
        name = "images" if kind == "image" else kind
        raise ValueError(
            f"capabilities.tokens_per_{kind}: say how many tokens one is at most, since requests are counted before an "
            f"engine sees them; or set capabilities.{name} to 0"
        )
    return most
