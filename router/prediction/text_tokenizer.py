"""The tokenizer of an encoder: what it sees of a text, and how long texts are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from apportion.router.arrays import IntArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOKEN_CHARS = 64
"""Far more characters than a token stands for; of a text only what may be read is tokenised."""


_TEXTS_AT_ONCE = 16_384


def chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in parts, so that the ids of a million need not be in memory together."""
    return (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))


class TextTokenizer:
    """Cuts texts into token ids; one longer than `max_tokens`, special tokens included, loses its beginning.

    Lone surrogates, which no tokenizer takes, are read as question marks.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, *, special_tokens: bool) -> None:
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, direction="left")
        self._special_tokens = special_tokens
        self._most_chars = _TOKEN_CHARS * max_tokens
        self.vocabulary_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of what the encoder sees of every text."""
        # The tokenizer cuts after it has read all of a text; what comes so early is not among what it keeps.
        ends = [_readable(text[-self._most_chars :]) for text in texts]
        encoded = self._tokenizer.encode_batch_fast(ends, add_special_tokens=self._special_tokens)
        return [encoding.ids for encoding in encoded]

    def count(self, texts: Sequence[str]) -> IntArray:
        """Tokens of the whole texts, without special tokens, shape `(n_texts,)`."""
        lengths: list[int] = []
        for part in chunks(texts):
            encoded = self._counter.encode_batch_fast([_readable(text) for text in part], add_special_tokens=False)
            lengths += [len(encoding) for encoding in encoded]
        return np.array(lengths, dtype=np.int64)

    @cached_property
    def _counter(self) -> Tokenizer:
        counter = type(self._tokenizer).from_str(self._tokenizer.to_str())
        counter.no_truncation()
        return counter


def _readable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
