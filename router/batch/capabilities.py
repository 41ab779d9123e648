"""What a model can do and what a request needs of it: the same list of numbers, so that they compare as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from apportion.router.arrays import BoolArray

UNLIMITED = 2**31 - 1


class Capabilities(NamedTuple):
    """Of a model: the most that it can do of each; of a request: how much of each it needs. Most are 1 or 0.

    Args:
        tools: it may call tools when it likes.
        tool_choice: it can be made to.
        logprobs: tokens whose log probabilities are told at each place.
        prompt_logprobs: it tells those of the prompt's own tokens too.
        images: pictures of a request.
        audio: clips of a request.
        embeddings: vectors of texts, and nothing that is generated.
        responses: it answers at `/v1/responses`, which simulated engines do not.
        messages: the same of `/v1/messages`.
        tokenize: the same of `/tokenize` and `/detokenize`.
    """

    chat: int = 0
    completions: int = 0
    tools: int = 0
    tool_choice: int = 0
    parallel_tool_calls: int = 0
    structured_outputs: int = 0
    reasoning: int = 0
    logprobs: int = 0
    prompt_logprobs: int = 0
    images: int = 0
    audio: int = 0
    embeddings: int = 0
    responses: int = 0
    messages: int = 0
    tokenize: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are there at all."""
        return tuple(name for name, most in self._asdict().items() if most)

    @property
    def only_embeds(self) -> bool:
        """Of a model: whether it makes embeddings and generates nothing."""
        return bool(self.embeddings and not (self.chat or self.completions))

    @property
    def text(self) -> bool:
        """Of a request: whether its answer is a text that is generated."""
        return not (self.embeddings or self.tokenize)


NO_NEEDS = Capabilities()
EVERYTHING = Capabilities(*[UNLIMITED] * len(NO_NEEDS))

# The field of a request that asks for each, and what is said of a model without it.
_LACKS = {
    "chat": ("messages", "answers no chats; send a prompt to /v1/completions instead"),
    "completions": ("prompt", "answers no completions; send messages to /v1/chat/completions instead"),
    "tools": ("tools", "calls no tools"),
    "tool_choice": ("tool_choice", "cannot be made to call a tool"),
    "parallel_tool_calls": ("parallel_tool_calls", "makes one tool call at a time"),
    "structured_outputs": ("response_format", "gives no structured outputs"),
    "reasoning": ("reasoning_effort", "does not reason"),
    "logprobs": ("logprobs", "tells no log probabilities"),
    "prompt_logprobs": ("prompt_logprobs", "tells no log probabilities of prompts (nor with echo)"),
    "images": ("messages", "takes no pictures"),
    "audio": ("messages", "takes no audio"),
    "embeddings": ("input", "makes no embeddings"),
    "responses": ("input", "does not answer at /v1/responses; send messages to /v1/chat/completions instead"),
    "messages": ("messages", "does not answer at /v1/messages; send them to /v1/chat/completions instead"),
    "tokenize": ("model", "does not tell tokens"),
}
_EMBEDS = "makes embeddings and answers nothing; send input to /v1/embeddings instead"
_TOO_MANY = {
    "logprobs": "tells the log probabilities of at most {most} tokens at a place",
    "images": "takes at most {most} pictures in a request",
    "audio": "takes at most {most} audio clips in a request",
}


class Lack(NamedTuple):
    """What keeps a model from answering a request: the request's field that asks for it, and the reason in words."""

    param: str
    reason: str


def able(needs: Sequence[Capabilities], models: Sequence[Capabilities]) -> BoolArray:
    """(N, M): whether each model can do all that each request needs."""
    kinds = {need: kind for kind, need in enumerate(dict.fromkeys(needs))}  # mostly one: they need nothing
    needed, most = np.array(list(kinds), dtype=np.int64), np.array(models, dtype=np.int64)
    of_kind: BoolArray = np.asarray((needed[:, None, :] <= most[None, :, :]).all(axis=2))
    return of_kind[[kinds[need] for need in needs]]


def lack(needs: Capabilities, model: Capabilities) -> Lack | None:
    """The first thing that the request needs and the model cannot do; None: it can do all."""
    for name, needed, most in zip(needs._fields, needs, model, strict=True):
        if needed > most:
            param, reason = _LACKS[name]
            if model.only_embeds:
                reason = _EMBEDS
            return Lack(param, _TOO_MANY[name].format(most=most) if most and name in _TOO_MANY else reason)
    return None
