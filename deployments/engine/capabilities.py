"""Checks, when an engine has started, that it can do what the configuration says of its model.

What it can do is read off vLLM's own objects, which come without types.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from apportion.deployments.config.capabilities import max_logprobs
from apportion.deployments.config.models import ModelConfig
from apportion.router.batch.capabilities import Capabilities
from apportion.router.errors import ConfigurationError

_CALLS = "it parses no tool calls; set engine_args.enable_auto_tool_choice and engine_args.tool_call_parser, or"
_MEDIA = "it takes {most} of a request; raise engine_args.limit_mm_per_prompt if the model reads them, or"
_GENERATES = "the model generates no text (one that makes embeddings needs engine_args.runner: pooling), so"
_MENDS = {
    "chat": "the model has no chat template, or generates no text; give engine_args.chat_template, or",
    "completions": _GENERATES,
    "tools": _CALLS,
    "tool_choice": _CALLS,
    "parallel_tool_calls": _CALLS,
    "structured_outputs": _GENERATES,
    "reasoning": "it cannot tell thoughts from answers; set engine_args.reasoning_parser, or",
    "logprobs": "it tells {most} at a place; correct engine_args.max_logprobs, or",
    "prompt_logprobs": _GENERATES,
    "images": _MEDIA,
    "audio": _MEDIA,
    "embeddings": "the model makes none; correct engine_args.runner and engine_args.convert, or",
}
KINDS = {"image": "images", "audio": "audio"}
_COUNTED = frozenset({"logprobs", *KINDS.values()})


@dataclass(frozen=True)
class EngineAbilities:
    """What an engine can do; `media_tokens` are the most that an item of each kind is in a prompt."""

    capabilities: Capabilities
    media_tokens: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, llm: Any, state: Any, tasks: Collection[str]) -> EngineAbilities:
        """Reads it off a started engine.

        Args:
            llm: vLLM's AsyncLLM.
            state: of vLLM's application.
            tasks: that the model supports.
        """
        renderer = state.online_renderer
        generates, parser = int("generate" in tasks), renderer.parser
        calls = int(renderer.use_harmony or getattr(parser, "tool_parser_cls", None) is not None)
        thinks = int(renderer.use_harmony or getattr(parser, "reasoning_parser_cls", None) is not None)
        template = renderer.use_harmony or renderer.chat_template or getattr(llm.get_tokenizer(), "chat_template", None)
        limits, tokens = _media(llm.renderer.mm_processor)
        can = Capabilities(
            chat=int(bool(generates and template)),
            completions=generates,
            tools=calls,
            tool_choice=calls,
            parallel_tool_calls=calls,
            structured_outputs=generates,
            reasoning=thinks,
            logprobs=max_logprobs(llm.model_config.max_logprobs) if generates else 0,
            prompt_logprobs=generates,
            images=limits.get("image", 0),
            audio=limits.get("audio", 0),
            embeddings=int(getattr(state, "serving_embedding", None) is not None),
        )
        return cls(can, tokens)

    def with_pictures_of(self, tokens: int | None) -> EngineAbilities:
        """The same with a measured picture; None leaves vLLM's own word, which leaves out what stands around it."""
        return self if tokens is None else replace(self, media_tokens={**self.media_tokens, "image": tokens})

    def check(self, model: ModelConfig) -> None:
        """Raises: ConfigurationError: the model is said to do what its engine cannot; names all of it."""
        said = model.all_capabilities
        if model.capabilities.chat is None:  # a guess, where its tokenizer was not at hand
            said = said._replace(chat=0)
        wrong = [
            f"{name}: {_MENDS[name].format(most=most)} set capabilities.{name}: {most if name in _COUNTED else 'false'}"
            for name, claimed, most in zip(said._fields, said, self.capabilities, strict=True)
            if name in _MENDS and claimed > most
        ]
        for (kind, name), stated in zip(KINDS.items(), model.capabilities.media_tokens, strict=True):
            most = self.media_tokens.get(kind, 0)
            if getattr(said, name) and most > stated:
                wrong.append(
                    f"tokens_per_{kind}: one is up to {most} tokens, not {stated}; raise it to {most}, or make them "
                    "smaller with engine_args.mm_processor_kwargs"
                )
        if wrong:
            raise ConfigurationError(f"the engine of {model.name!r} differs from its capabilities: {'; '.join(wrong)}")


def _media(processor: Any) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Items of a request and tokens of one, by kind; of models that read text only there are none."""
    if processor is None:
        return {}, {}
    from vllm.multimodal.encoder_budget import get_mm_max_toks_per_item

    limits = processor.info.allowed_mm_limits
    kinds = {kind: 1 for kind in KINDS if limits.get(kind, 0)}
    return limits, get_mm_max_toks_per_item(processor, kinds, None) if kinds else {}
