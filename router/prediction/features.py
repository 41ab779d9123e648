"""What estimators see of a request: the embedding of its text, and counted features of the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.router.prediction.text_features import text_features

if TYPE_CHECKING:
    from apportion.router.prediction.text_encoder import TextEncoder


@dataclass(frozen=True)
class Features:
    """`embeddings` of shape `(n_requests, dimension)` and `text` of shape `(n_requests, n_text_features)`,
    float32.
    """

    embeddings: NDArray[np.float32]
    text: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.embeddings)

    @classmethod
    def of(cls, texts: Sequence[str], encoder: TextEncoder) -> Features:
        """Encode the texts and count their features."""
        return cls(encoder.encode(texts), text_features(texts))

    def subset(self, rows: ArrayLike) -> Features:
        """These rows (indices or a mask), in the given order."""
        index = np.asarray(rows)
        return Features(self.embeddings[index], self.text[index])

    def stacked(self) -> NDArray[np.float32]:
        """Both side by side, shape `(n_requests, dimension + n_text_features)`."""
        return np.hstack([self.embeddings, self.text])
