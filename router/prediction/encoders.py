"""Encoders by name: `minilm`, a folder or a hub id; `static:` or `both:` before it.

A transformer reads every text as a whole. `static:` takes the mean of token vectors that are distilled from it, and
`both:` puts the two side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import IntArray
from apportion.router.errors import ArtefactError
from apportion.router.prediction.artefact import EncoderRecord
from apportion.router.prediction.static_encoder import PREFIX as STATIC
from apportion.router.prediction.static_encoder import VOCABULARY, StaticEncoder

if TYPE_CHECKING:
    import torch

    from apportion.router.prediction.embedding_cache import EmbeddingCache
    from apportion.router.prediction.encoder import Encoder
    from apportion.router.prediction.text_encoder import TextEncoder

BOTH = "both:"


@dataclass(frozen=True, eq=False)
class JoinedEncoder:
    """Static vectors and a transformer's, side by side."""

    static: StaticEncoder
    transformer: Encoder

    @property
    def source(self) -> str:
        return f"{BOTH}{self.transformer.source}"

    @property
    def max_tokens(self) -> int:
        return self.transformer.max_tokens

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dimension(self) -> int:
        return self.static.dimension + self.transformer.dimension

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the checksums of the two."""
        return hashlib.sha256(f"{self.static.weights_hash} {self.transformer.weights_hash}".encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape `(n_texts, dimension)`."""
        return np.hstack([self.static.encode(texts), self.transformer.encode(texts)])

    def count_tokens(self, texts: Sequence[str]) -> IntArray:
        """Tokens of the whole texts, without special tokens, shape `(n_texts,)`."""
        return self.transformer.count_tokens(texts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The static vectors'; the transformer is loaded from its source."""
        return self.static.arrays()


@dataclass(frozen=True, eq=False)
class Encoders:
    """What can be made of one sentence encoder; each is made when first asked for.

    `texts` and `vocabulary` say which tokens get a static vector (`StaticEncoder.distil`).
    """

    transformer: Encoder
    texts: Sequence[str] = ()
    vocabulary: int = VOCABULARY

    @cached_property
    def static(self) -> StaticEncoder:
        return StaticEncoder.distil(self.transformer, self.texts, self.vocabulary)

    @cached_property
    def both(self) -> JoinedEncoder:
        return JoinedEncoder(self.static, self.transformer)

    @classmethod
    def load(
        cls, source: str, device: str = "auto", texts: Sequence[str] = (), vocabulary: int = VOCABULARY
    ) -> Encoders:
        """Load the sentence encoder that `source` names, whatever stands before its name.

        Raises:
            ConfigurationError: it cannot be had or is not a usable encoder.
        """
        from apportion.router.prediction.encoder import Encoder

        return cls(Encoder.load(bare(source), device=device), texts, vocabulary)

    def of(self, source: str) -> TextEncoder:
        """The one that `source` names by what stands before the sentence encoder's name."""
        if source.startswith(STATIC):
            return self.static
        return self.both if source.startswith(BOTH) else self.transformer


def load_encoder(
    source: str, device: str = "auto", texts: Sequence[str] = (), vocabulary: int = VOCABULARY
) -> TextEncoder:
    """The encoder of this name; static vectors are made anew.

    Args:
        texts, vocabulary: which tokens get a static vector (`StaticEncoder.distil`).

    Raises:
        ConfigurationError: it cannot be had or is not a usable encoder.
    """
    return Encoders.load(source, device, texts, vocabulary).of(source)


def keep_vectors(encoder: TextEncoder, cache: EmbeddingCache) -> None:
    """Has an encoder's transformer, if it has one, encode no text that the cache knows."""
    transformer = encoder.transformer if isinstance(encoder, JoinedEncoder) else encoder
    if not isinstance(transformer, StaticEncoder):
        cast("Encoder", transformer).cache = cache


def default_encoder(device: str = "auto") -> str:
    """Static vectors of MiniLM on a CPU, MiniLM itself on a GPU, which has the time."""
    import torch

    on_cpu = not torch.cuda.is_available() if device == "auto" else torch.device(device).type == "cpu"
    return f"{STATIC}minilm" if on_cpu else "minilm"


def bare(source: str) -> str:
    """The sentence encoder's own name."""
    return source.removeprefix(STATIC).removeprefix(BOTH)


def restored(
    record: EncoderRecord, arrays: Mapping[str, NDArray[Any]], given: str | TextEncoder | None, device: str
) -> TextEncoder:
    """The encoder of an artefact.

    Args:
        arrays: the artefact's, static vectors among them if it has any.
        given: where its transformer lies now, or the very encoder; None: its record says where.

    Raises:
        ArtefactError: what is given is another encoder, or a place where static vectors need none.
        ConfigurationError: the transformer cannot be loaded.
    """
    found = _load(record, arrays, given, device) if given is None or isinstance(given, str) else given
    _check(found, record)
    return found


def check_place(record: EncoderRecord, place: str | None) -> None:
    """Refuse a place of an encoder that nothing is loaded from.

    Raises:
        ArtefactError: the artefact has static vectors alone.
    """
    if place is not None and record.source.startswith(STATIC):
        raise ArtefactError(
            f"encoder {place!r}: the artefact holds static vectors and needs no other encoder, leave it out"
        )


def _load(record: EncoderRecord, arrays: Mapping[str, NDArray[Any]], place: str | None, device: str) -> TextEncoder:
    from apportion.router.prediction.encoder import Encoder

    check_place(record, place)
    if record.source.startswith(STATIC):
        return StaticEncoder.restore(record.source, record.max_tokens, arrays)
    transformer = Encoder.load(place or bare(record.source), device=device, max_tokens=record.max_tokens)
    if not record.source.startswith(BOTH):
        return transformer
    return JoinedEncoder(StaticEncoder.restore(STATIC + transformer.source, record.max_tokens, arrays), transformer)


def _check(encoder: TextEncoder, record: EncoderRecord) -> None:
    if encoder.weights_hash != record.weights_sha256:
        raise ArtefactError(
            f"encoder: the artefact was trained on {record.source!r} (SHA-256 {record.weights_sha256}), "
            f"{encoder.source!r} has {encoder.weights_hash}: load that encoder, or train with this one"
        )
    if encoder.max_tokens != record.max_tokens:
        raise ArtefactError(
            f"max_tokens: the artefact's embeddings are cut at {record.max_tokens} tokens, the encoder given cuts at "
            f"{encoder.max_tokens}: load it with max_tokens={record.max_tokens}"
        )
