"""What a request asks of a model, read from its body: who cannot do it is not asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from apportion.router.batch.capabilities import UNLIMITED, Capabilities
from apportion.router.traits import tools_offered, wants_structure


def needs_of(
    kind: Literal["chat", "completion"], body: Mapping[str, Any], *, images: int = 0, audio: int = 0
) -> Capabilities:
    """The capabilities that a model needs to answer.

    What is no value of a field asks for nothing here: the engine says what is wrong with it.

    Args:
        body: fields as in OpenAI's and vLLM's bodies; null is as good as absent.
        images: pictures in its messages.
        audio: clips in its messages.
    """
    calls = tools_offered(body) > 0
    return Capabilities(
        chat=int(kind == "chat"),
        completions=int(kind == "completion"),
        tools=int(calls),
        tool_choice=int(calls and body.get("tool_choice") not in (None, "auto")),
        parallel_tool_calls=int(calls and body.get("parallel_tool_calls") is True),
        structured_outputs=int(wants_structure(body)),
        reasoning=int(
            body.get("reasoning_effort") not in (None, "none") or body.get("thinking_token_budget") is not None
        ),
        logprobs=_logprobs(body),
        prompt_logprobs=int(_scores_its_prompt(kind, body)),
        images=images,
        audio=audio,
    )


def _scores_its_prompt(kind: Literal["chat", "completion"], body: Mapping[str, Any]) -> bool:
    """As vLLM takes it: what is echoed has its log probabilities too, of a chat even where none are asked for."""
    echoes = bool(body.get("echo")) and (kind == "chat" or body.get("logprobs") is not None)
    return echoes or body.get("prompt_logprobs") is not None


def _logprobs(body: Mapping[str, Any]) -> int:
    """Log probabilities that are asked for at a place; -1, all of the vocabulary, counts as without limit."""
    asked = [body.get(name) for name in ("logprobs", "prompt_logprobs")]
    asked += [body.get("top_logprobs") if body.get("logprobs") else None]
    numbers = [one for one in asked if isinstance(one, int) and one is not False]
    return max((UNLIMITED if one < 0 else max(1, min(one, UNLIMITED)) for one in numbers), default=0)
