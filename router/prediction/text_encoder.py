"""The interface of everything that maps texts to vectors: transformer, static token vectors, both side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from apportion.router.arrays import IntArray
    from apportion.router.prediction.artefact import Arrays


class TextEncoder(Protocol):
    """Maps texts to vectors of `dimension` numbers, always the same for the same text.

    `source` names it, and `encoders.load_encoder` takes that name; `max_tokens` is where it cuts texts.
    """

    @property
    def source(self) -> str: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def dimension(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def weights_hash(self) -> str:
        """SHA-256 of what its vectors depend on, as hexadecimal digits."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape `(n_texts, dimension)`."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> IntArray:
        """Tokens of the whole texts, without special tokens, shape `(n_texts,)`."""
        ...

    def arrays(self) -> Arrays:
        """What an artefact has to hold for it; none for one that is loaded from its source."""
        ...
