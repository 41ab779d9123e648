"""Static encoder: a text's vector is the mean of fixed vectors of its tokens, a hundredth of a transformer's work.

The vectors are distilled from any sentence encoder, as the library model2vec does it (Tulkens and van Dongen 2024,
"Model2Vec: Fast State-of-the-Art Static Embeddings"): every token alone through the encoder, the main components of
what comes out, and common tokens, which come first in a vocabulary, weighted down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.errors import ArtefactError
from apportion.router.prediction.text_tokenizer import TextTokenizer, chunks

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from apportion.router.prediction.encoder import Encoder

PREFIX = "static:"
DIMENSION = 256
VOCABULARY = 32_768
"""Tokens with a vector, unless told otherwise: all of most encoders, and 8 MB at most."""

_LEVELS = 127


@dataclass(frozen=True, eq=False)
class StaticEncoder:
    """Token vectors, and the tokenizer that they belong to.

    `vectors` `(K, D)` int8 times `scales` `(K,)` are the vectors of the tokens `tokens` `(K,)`; others count for
    nothing. `source` is `static:` and the encoder that they were made from.
    """

    source: str
    max_tokens: int
    tokenizer: str
    tokens: IntArray
    vectors: NDArray[np.int8]
    scales: NDArray[np.float32]

    @classmethod
    def distil(
        cls, encoder: Encoder, texts: Sequence[str] = (), vocabulary: int = VOCABULARY, dimension: int = DIMENSION
    ) -> StaticEncoder:
        """Make one from a sentence encoder.

        Args:
            texts: their tokens come first where not all get a vector; the rest go by their rank in the vocabulary.
            vocabulary: tokens that get a vector, at most.
            dimension: length of the vectors, at most.
        """
        tokens = _worth_a_vector(encoder.tokenizer, texts, vocabulary)
        before, after = _surroundings(encoder.tokenizer)
        alone = encoder.encode_ids([[*before, token, *after] for token in tokens.tolist()])
        weighted = _main_components(alone.astype(np.float64), dimension) * np.log(tokens + 2.0)[:, None]
        scales = np.maximum(np.abs(weighted).max(axis=1), 1e-12) / _LEVELS
        return cls(
            source=f"{PREFIX}{encoder.source}",
            max_tokens=encoder.max_tokens,
            tokenizer=encoder.tokenizer.to_str(),
            tokens=tokens,
            vectors=np.round(weighted / scales[:, None]).astype(np.int8),
            scales=scales.astype(np.float32),
        )

    @classmethod
    def restore(cls, source: str, max_tokens: int, arrays: Mapping[str, NDArray[Any]]) -> StaticEncoder:
        """From an artefact's arrays.

        Raises:
            ArtefactError: one is missing.
        """
        try:
            text = arrays["encoder.tokenizer"].tobytes().decode("utf-8", "replace")
            own = [arrays[f"encoder.{name}"] for name in ("tokens", "vectors", "scales")]
        except KeyError as error:
            raise ArtefactError(f"the artefact's static vectors lack {error}: train it again") from error
        return cls(source, max_tokens, text, *own)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, the tokenizer's JSON as bytes."""
        return {
            "encoder.tokenizer": np.frombuffer(self.tokenizer.encode(), dtype=np.uint8),
            "encoder.tokens": self.tokens,
            "encoder.vectors": self.vectors,
            "encoder.scales": self.scales,
        }

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of its arrays, as hexadecimal digits."""
        digest = hashlib.sha256()
        for values in self.arrays().values():
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape `(n_texts, dimension)`, of length one, or zero where no token has a vector."""
        parts = [self._means(self._texts.ids(part)) for part in chunks(texts)]
        return np.vstack(parts) if parts else np.zeros((0, self.dimension), dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> IntArray:
        """Tokens of the whole texts by the encoder's tokenizer, without special tokens, shape `(n_texts,)`."""
        return self._texts.count(texts)

    def _means(self, ids: list[list[int]]) -> NDArray[np.float32]:
        import torch
        from torch.nn.functional import embedding_bag, normalize

        lengths = np.array([len(row) for row in ids])
        starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        rows = torch.from_numpy(self._row_of[np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])])
        with torch.inference_mode():
            return normalize(embedding_bag(rows, self._table, starts, mode="sum"), dim=1).numpy()

    @cached_property
    def _texts(self) -> TextTokenizer:
        from tokenizers import Tokenizer

        return TextTokenizer(Tokenizer.from_str(self.tokenizer), self.max_tokens, special_tokens=False)

    @cached_property
    def _row_of(self) -> IntArray:
        """(vocabulary,) row of `_table` by token id; what has no vector shares the first, which is zero."""
        rows = np.zeros(max(self._texts.vocabulary_size, int(self.tokens.max(initial=0)) + 1), dtype=np.int64)
        rows[self.tokens] = np.arange(1, len(self.tokens) + 1)
        return rows

    @cached_property
    def _table(self) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.vstack([np.zeros(self.dimension), self.vectors * self.scales[:, None]])).float()


def _worth_a_vector(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> IntArray:
    """Ids of the tokens that get a vector, ascending: no special ones, those of the texts first."""
    cut = TextTokenizer(tokenizer, 2**31 - 1, special_tokens=False)
    count = np.zeros(cut.vocabulary_size, dtype=np.int64)
    for part in chunks(texts):
        np.add.at(count, [token for row in cut.ids(part) for token in row], 1)
    special = [token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    by_use = np.argsort(-count, kind="stable")
    return np.sort(by_use[~np.isin(by_use, special)][:most])


def _surroundings(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    with_special = tokenizer.encode("a", add_special_tokens=True)
    mask = with_special.special_tokens_mask
    own = [place for place, special in enumerate(mask) if not special] or [len(mask)]
    return with_special.ids[: own[0]], with_special.ids[own[-1] + 1 :]


def _main_components(vectors: FloatArray, dimension: int) -> FloatArray:
    """The centred vectors in the directions in which they differ most, `(K, dimension)` at most."""
    centred = vectors - vectors.mean(axis=0)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :dimension]
    return np.asarray(centred @ directions)
