"""The fewest tokens that a text can have, by its length alone: what no context holds is not tokenised to be refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

# A canonical composition puts at most so many characters into one (Unicode Standard, section 3.11).
COMPOSED_CHARS = 4
_COMPOSING = {"NFC", "NFKC"}
_GROWING = {"NFD", "NFKD", "Prepend", "ByteLevel"}
_KEEPING = {"ByteLevel", "Split", "Digits", "Metaspace", "Punctuation", "UnicodeScripts"}


@dataclass(frozen=True)
class LengthBound:
    """No token of a vocabulary stands for more than `chars` characters of a text.

    `blanks` False: characters that are blank do not count, since some tokens swallow any number of them.
    """

    chars: int
    blanks: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> LengthBound | None:
        """The bound of a tokenizer; None where a token may stand for any number of characters.

        That is so where unknown words are one token, or something is taken out of a text before it is split.
        """
        parts: Mapping[str, Any] = json.loads(tokenizer.to_str())
        model = parts["model"]
        normalizers = list(_parts(parts.get("normalizer"), "normalizers"))
        splitters = list(_parts(parts.get("pre_tokenizer"), "pretokenizers"))
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        if any(part["type"] == "ByteLevel" for part in [*normalizers, *splitters]):
            every_byte = set(ByteLevel.alphabet())
        else:
            every_byte = {f"<0x{byte:02X}>" for byte in range(256)} if model.get("byte_fallback") else {""}
        if model["type"] not in {"BPE", "Unigram"} or not every_byte <= vocabulary.keys():
            return None
        if not all(map(_keeps, normalizers)) or not all(map(_splits, splitters)):
            return None
        longest = max(map(len, vocabulary), default=1)
        composing = any(part["type"] in _COMPOSING for part in normalizers)
        greedy = any(token["lstrip"] or token["rstrip"] for token in parts.get("added_tokens", ()))
        return cls(longest * (COMPOSED_CHARS if composing else 1), blanks=not greedy)

    def least_tokens(self, text: str) -> int:
        """The text has at least so many."""
        size = len(text) if self.blanks else sum(map(len, text.split()))
        return math.ceil(size / self.chars)


def _parts(part: Mapping[str, Any] | None, several: str) -> Iterator[Mapping[str, Any]]:
    if part is not None:
        for one in part[several] if part["type"] == "Sequence" else (part,):
            yield from _parts(one, several) if one["type"] == "Sequence" else (one,)


def _keeps(normalizer: Mapping[str, Any]) -> bool:
    """Whether it takes no character out of a text, but for composing some."""
    if normalizer["type"] == "Replace":
        old = normalizer["pattern"].get("String")
        return old is not None and len(old) <= len(normalizer["content"])
    return normalizer["type"] in _COMPOSING | _GROWING


def _splits(splitter: Mapping[str, Any]) -> bool:
    return splitter["type"] in _KEEPING and splitter.get("behavior") != "Removed"
