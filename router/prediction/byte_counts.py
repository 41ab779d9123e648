"""Counting prompts for models whose tokenizers nobody here has: by their bytes, the most tokens that they can be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.errors import ApportionError, InvalidRequestError

MESSAGE_TOKENS = 16  # around a message: its role, its end, what begins the answer
TOOLS_TOKENS = 512  # of what a provider tells its model on how to call tools


class ByteCounts:
    """The columns of the models that are counted so.

    A vocabulary that reads every text has a token for each byte, and most tokens stand for more: a text has at most as
    many tokens as bytes. Around it are those of a chat's form, which are set generously.
    """

    token_chars = None

    def __init__(self, columns: list[int]) -> None:
        self.columns = columns

    def count(
        self,
        contents: Sequence[Any],
        tools: Sequence[list[dict[str, Any]] | None],
        variables: Sequence[Mapping[str, Any]],
        errors: dict[int, ApportionError],
    ) -> tuple[IntArray, dict[int, str]]:
        """Tokens (n_requests,) at most; adds to `errors` what no model can read."""
        totals = np.zeros(len(contents), dtype=np.int64)
        for row, content in enumerate(contents):
            try:
                offered = TOOLS_TOKENS + _bytes(json.dumps(tools[row], ensure_ascii=False)) if tools[row] else 0
                totals[row] = _count(content) + offered
            except ApportionError as error:
                errors[row] = error
        return totals, {}


def _count(content: Any) -> int:
    if isinstance(content, str):
        return _bytes(content) + 1
    if content and all(isinstance(token, int) for token in content):
        return len(content)
    if content and all(isinstance(message, Mapping) for message in content):
        return MESSAGE_TOKENS + sum(map(_message, content))
    if not content or not all(isinstance(part, str | Sequence) for part in content):
        raise InvalidRequestError("content: give a prompt, token ids, several of these, or a chat's messages")
    return sum(map(_count, content))


def _message(message: Mapping[str, Any]) -> int:
    return MESSAGE_TOKENS + _bytes(json.dumps(message, ensure_ascii=False))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
