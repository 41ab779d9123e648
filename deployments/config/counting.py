"""A model's engine arguments that decide how many tokens a prompt has: the router counts by the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apportion.router.prediction.tokens import TokenizerSource

_FORMATS = ("auto", "string", "openai")


def tokenizer_source(source: str, arguments: Mapping[str, Any]) -> TokenizerSource:
    """How the engine with these arguments counts.

    Args:
        source: the model's folder or hub id.

    Raises:
        ValueError: an argument makes the engine count in a way that the router does not know.
    """
    mode = str(arguments.get("tokenizer_mode", "auto")).lower()
    if mode not in {"auto", "hf"}:
        raise ValueError(
            f"engine_args.tokenizer_mode {mode!r}: the router counts with tokenizer.json and its chat template only; "
            "use auto or hf"
        )
    if arguments.get("skip_tokenizer_init"):
        raise ValueError("engine_args.skip_tokenizer_init: the engine could read no prompts; remove it")
    content_format = arguments.get("chat_template_content_format", "auto")
    if content_format not in _FORMATS:
        raise ValueError(f"engine_args.chat_template_content_format: use one of {', '.join(_FORMATS)}")
    variables = arguments.get("default_chat_template_kwargs") or {}
    if not isinstance(variables, Mapping):
        raise ValueError("engine_args.default_chat_template_kwargs: give a mapping of the template's variables")
    template = arguments.get("chat_template")
    return TokenizerSource(
        source=str(arguments.get("tokenizer") or source),
        revision=arguments.get("tokenizer_revision") or arguments.get("revision"),
        trust_remote_code=bool(arguments.get("trust_remote_code", False)),
        chat_template=None if template is None else str(template),
        content_format=content_format,
        variables=dict(variables),
    )
