"""Counting a request's input tokens for every model, with the models' own tokenizers and chat templates."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.errors import ApportionError, ConfigurationError, InvalidRequestError
from apportion.router.prediction.chat import message_text
from apportion.router.torch_companions import hide_misfits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

Content = str | Sequence[Any]
"""A prompt, a chat's messages, token ids, or several prompts (texts or token ids), whose tokens are
summed.
"""

Tools = list[dict[str, Any]] | None


class TokenCounter:
    """Counts for `models`; models with the same tokenizer and chat template are counted once."""

    def __init__(self, tokenizers: Mapping[str, PreTrainedTokenizerFast]) -> None:
        self.models = tuple(tokenizers)
        columns: dict[tuple[str, str], list[int]] = {}
        for column, tokenizer in enumerate(tokenizers.values()):
            key = (tokenizer.backend_tokenizer.to_str(), str(tokenizer.chat_template))
            columns.setdefault(key, []).append(column)
        self._groups = [_Group(tokenizers[self.models[c[0]]], self.models[c[0]], c) for c in columns.values()]

    @classmethod
    def load(cls, sources: Mapping[str, str], *, download: bool = True) -> TokenCounter:
        """Load the tokenizer of every model from its folder or hub id.

        Args:
            sources: folder or hub id by model, in the order of the counts' columns.
            download: False takes only what this machine holds, in a folder or in the hub's cache.

        Raises:
            ConfigurationError: a model has no tokenizer, or none of the fast kind; names the model.
        """
        hide_misfits()
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        loaded: dict[str, PreTrainedTokenizerFast] = {}
        for model, source in sources.items():
            try:
                tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=not download)
            except (OSError, ValueError, KeyError) as error:
                raise ConfigurationError(
                    f"source: the tokenizer of {model!r} cannot be loaded from {source!r}; {error}"
                ) from error
            if not isinstance(tokenizer, PreTrainedTokenizerFast):
                raise ConfigurationError(
                    f"source: {source!r} of {model!r} has no fast tokenizer; add a tokenizer.json to it"
                )
            loaded[model] = tokenizer
        return cls(loaded)

    def count(self, content: Content, tools: Tools = None) -> IntArray:
        """Input tokens of one request on every model, (M,), generation prompt included.

        Raises:
            InvalidRequestError: a chat template refuses the messages, or a model has none.
        """
        counts, errors = self.count_batch([content], [tools])
        for error in errors.values():
            raise error
        return np.asarray(counts[0])

    def count_batch(
        self, contents: Sequence[Content], tools: Sequence[Tools] | None = None
    ) -> tuple[IntArray, dict[int, ApportionError]]:
        """Input tokens (N, M), and by row the errors of requests that cannot be counted.

        Rows with an error hold zeros.
        """
        counts = np.zeros((len(contents), len(self.models)), dtype=np.int64)
        errors: dict[int, ApportionError] = {}
        for group in self._groups:
            counts[:, group.columns] = group.count(contents, tools or [None] * len(contents), errors)[:, None]
        counts[list(errors)] = 0
        return counts, errors


@dataclass(frozen=True)
class _Group:
    """Models that share a tokenizer and a chat template: their columns, and the name of one for messages."""

    tokenizer: PreTrainedTokenizerFast
    name: str
    columns: list[int]

    def count(self, contents: Sequence[Content], tools: Sequence[Tools], errors: dict[int, ApportionError]) -> IntArray:
        """Tokens `(n_requests,)`; adds to `errors`."""
        totals = np.zeros(len(contents), dtype=np.int64)
        texts: dict[bool, list[str]] = {False: [], True: []}
        owners: dict[bool, list[int]] = {False: [], True: []}
        for row, content in enumerate(contents):
            try:
                for part, special in self._parts(content, tools[row]):
                    if isinstance(part, str):
                        texts[special].append(part)
                        owners[special].append(row)
                    else:
                        totals[row] += part
            except ApportionError as error:
                errors[row] = error
            except Exception as error:  # whatever a template or a tokenizer makes of it, it is this request's alone
                logger.warning("a request's tokens cannot be counted: %s", type(error).__name__)
                errors[row] = InvalidRequestError(
                    f"the tokens of this request cannot be counted for {self.name!r}; check its messages and tools"
                )
        backend = self.tokenizer.backend_tokenizer
        for special, rows in owners.items():
            encoded = backend.encode_batch_fast(texts[special], add_special_tokens=special)
            np.add.at(totals, rows, np.array([len(encoding.ids) for encoding in encoded], dtype=np.int64))
        return totals

    def _parts(self, content: Content, tools: Tools) -> list[tuple[str | int, bool]]:
        """Texts to tokenize, each with whether special tokens are added, or numbers of tokens given as
        ids.
        """
        if isinstance(content, str):
            return [(content, True)]
        if content and all(isinstance(token, int) for token in content):
            return [(len(content), False)]
        if content and all(isinstance(message, Mapping) for message in content):
            return [(self._render(content, tools), False)]
        if not content or not all(isinstance(part, str | Sequence) for part in content):
            raise InvalidRequestError("content: give a prompt, token ids, several of these, or a chat's messages")
        return [part for prompt in content for part in self._parts(prompt, tools)]

    def _render(self, messages: Sequence[Any], tools: Tools) -> str:
        from jinja2.exceptions import TemplateError

        if not self.tokenizer.chat_template:
            raise InvalidRequestError(
                f"messages: model {self.name!r} has no chat template; send a prompt to /v1/completions instead"
            )
        flat = [{**message, "content": message_text(message, i)} for i, message in enumerate(messages)]
        try:
            text = self.tokenizer.apply_chat_template(flat, tools=tools, add_generation_prompt=True, tokenize=False)
        except (TemplateError, TypeError) as error:
            raise InvalidRequestError(
                f"messages: the chat template of {self.name!r} refuses these messages; {error}", param="messages"
            ) from error
        return str(text)
