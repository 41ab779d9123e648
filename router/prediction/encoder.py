"""Sentence encoder: texts to vectors, with any sentence-transformers folder or hub id, through transformers
alone.

Truncation rule: a text longer than `max_tokens` loses its beginning. What differs between few-shot prompts,
and what a chat is about, stands at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import IntArray
from apportion.router.errors import ConfigurationError
from apportion.router.prediction.encoder_files import resolve_source, weights_sha256
from apportion.router.prediction.pooling import Pooling
from apportion.router.prediction.text_tokenizer import TextTokenizer, chunks
from apportion.router.torch_companions import hide_misfits

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from apportion.router.prediction.artefact import Arrays
    from apportion.router.prediction.embedding_cache import EmbeddingCache
    from apportion.router.prediction.fused_bert import FusedBert

_FUSED_TOKENS = 64
"""A single text up to this length takes the fused layers on a CPU; larger batches are faster without them."""

_TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 65_536}


class Encoder:
    """A frozen transformer that maps texts to vectors of `dimension` float32 numbers.

    Make one with `Encoder.load`. `source` is what it was loaded from, `weights_hash` the SHA-256 of its
    weights. With a `cache` texts that were encoded before, by whichever process, are not encoded again.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, pooling: Pooling, max_tokens: int, source: str, folder: Path
    ) -> None:
        self._model = model
        self._device: torch.device = next(iter(model.parameters())).device
        self._fused = _fused(model, self._device)
        # Files often say how to pad and cut; that is decided here.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._texts = TextTokenizer(tokenizer, max_tokens, special_tokens=True)
        self._pooling = pooling
        self._folder = folder
        self.tokenizer = tokenizer
        self.source = source
        self.max_tokens = max_tokens
        self.dimension = int(model.config.hidden_size)
        self.cache: EmbeddingCache | None = None

    @classmethod
    def load(cls, source: str, device: str = "auto", dtype: str = "auto", max_tokens: int | None = None) -> Encoder:
        """Load a folder, a hub id, or `minilm` (apportion[minilm], its checksum verified).

        `device` is `auto` (a GPU when there is one), or a torch device. `dtype` is `auto` or a torch
        dtype's name: on a GPU float16 (bfloat16 for weights stored so), on a CPU float32, or bfloat16 where
        it has AMX or AVX512-BF16. `max_tokens` defaults to what the model's positions allow, at most 512.
        Raises ConfigurationError when the source cannot be had or is not a usable encoder.
        """
        import torch

        hide_misfits()
        from transformers import AutoConfig, AutoModel

        folder = resolve_source(source)
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        try:
            config = AutoConfig.from_pretrained(folder)
            precision = _precision(dtype, where, str(getattr(config, "dtype", "")))
            with _without_progress_bar():
                model = AutoModel.from_pretrained(folder, dtype=precision).eval().to(where)
            tokenizer = _fast_tokenizer(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError(f"encoder {source!r}: it cannot be loaded from {folder}: {error}") from error
        positions = int(getattr(config, "max_position_embeddings", 512))
        return cls(model, tokenizer, Pooling.read(folder), min(max_tokens or 512, positions), source, folder)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._device

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 of the weight files, as hexadecimal digits."""
        return weights_sha256(self._folder)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape `(n_texts, dimension)`, batched by length."""
        return (
            self.encode_anew(texts)
            if self.cache is None
            else self.cache.encode(self._identity, texts, self.encode_anew)
        )

    def encode_anew(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `encode`, whatever a cache holds."""
        parts = [self.encode_ids(self._texts.ids(part)) for part in chunks(texts)]
        return np.vstack(parts) if parts else np.zeros((0, self.dimension), dtype=np.float32)

    @cached_property
    def _identity(self) -> str:
        """All that vectors depend on beside the texts."""
        read = hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()
        kind = f"{self.device.type} {next(iter(self._model.parameters())).dtype}"
        return f"{self.weights_hash} {read} {self._pooling} {self.max_tokens} {kind}"

    def encode_ids(self, ids: Sequence[list[int]]) -> NDArray[np.float32]:
        """Vectors of texts given as token ids, special tokens included, shape `(n_texts, dimension)`."""
        import torch

        lengths = np.array([len(row) for row in ids])
        vectors = torch.empty((len(ids), self.dimension), device=self.device)
        with torch.inference_mode():
            for rows in length_batches(lengths, _TOKENS_PER_BATCH.get(self.device.type, 4_096)):
                batch = [ids[row] for row in rows]
                vectors[torch.from_numpy(rows).to(self.device)] = self._forward(batch, lengths[rows])
        return vectors.cpu().numpy()

    def count_tokens(self, texts: Sequence[str]) -> IntArray:
        """Tokens of the whole texts by this encoder's tokenizer, without special tokens, shape
        `(n_texts,)`.
        """
        return self._texts.count(texts)

    def arrays(self) -> Arrays:
        """None: an artefact names its source."""
        return {}

    def _forward(self, ids: list[list[int]], lengths: IntArray) -> torch.Tensor:
        import torch

        if lengths.min() == lengths.max():
            tokens, mask = torch.tensor(ids, device=self.device), None
        else:
            longest = int(lengths.max())
            filled = np.zeros((len(ids), longest), dtype=np.int64)
            keep = np.arange(longest) < lengths[:, None]
            filled[keep] = np.concatenate([np.asarray(row) for row in ids])
            tokens, mask = torch.from_numpy(filled).to(self.device), torch.from_numpy(keep).to(self.device)
        if self._fused is not None and tokens.shape[0] == 1 and tokens.shape[1] <= _FUSED_TOKENS:
            return self._pooling.pool(self._fused(tokens), None)
        states = self._model(input_ids=tokens, attention_mask=None if mask is None else mask.long())
        return self._pooling.pool(states.last_hidden_state, mask)


def length_batches(lengths: IntArray, tokens_per_batch: int) -> list[IntArray]:
    """Rows grouped by rising length, each group's padded size within `tokens_per_batch` (one row at
    least).
    """
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        # What follows is at least as long, so no more rows than this can go together.
        most = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        ahead = lengths[order[start : start + most]]
        take = max(1, int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), tokens_per_batch, side="right")))
        batches.append(order[start : start + take])
        start += take
    return batches


def _fused(model: Any, device: torch.device) -> FusedBert | None:
    from apportion.router.prediction.fused_bert import FusedBert, can_fuse

    return FusedBert(model) if device.type == "cpu" and can_fuse(model.config) else None


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _precision(dtype: str, device: torch.device, stored: str) -> torch.dtype:
    import torch

    if dtype != "auto":
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype) or not named.is_floating_point:
            raise ConfigurationError(f"dtype {dtype!r}: use auto, float32, float16 or bfloat16")
        return named
    if device.type != "cpu":
        return torch.bfloat16 if "bfloat16" in stored else torch.float16
    capability = torch.cpu.get_capabilities()
    fast = capability.get("amx_bf16", False) or capability.get("avx512_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def _fast_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend = getattr(AutoTokenizer.from_pretrained(folder), "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError("it has no fast tokenizer; add a tokenizer.json")
    return backend
