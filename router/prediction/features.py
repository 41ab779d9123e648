"""What estimators see of a request: the embedding of its text, and what is counted of the text and of the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apportion.router.prediction.request_features import Reach, request_features
from apportion.router.prediction.text_features import text_features
from apportion.router.traits import Traits

if TYPE_CHECKING:
    from apportion.router.prediction.text_encoder import TextEncoder


@dataclass(frozen=True)
class Features:
    """`embeddings` of shape `(n_requests, dimension)`, `text` of shape `(n_requests, n_text_features)` and `requests`
    of shape `(n_requests, n_request_features)`, float32.
    """

    embeddings: NDArray[np.float32]
    text: NDArray[np.float32]
    requests: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.embeddings)

    @classmethod
    def of(cls, texts: Sequence[str], encoder: TextEncoder, traits: Sequence[Traits] | None = None) -> Features:
        """Encode the texts and count; requests without `traits` are plain prompts."""
        return cls(encoder.encode(texts), text_features(texts), request_features(texts, traits))

    def subset(self, rows: ArrayLike) -> Features:
        """These rows (indices or a mask), in the given order."""
        index = np.asarray(rows)
        return Features(self.embeddings[index], self.text[index], self.requests[index])

    def stacked(self, reach: Reach) -> NDArray[np.float32]:
        """Side by side, those of the request last, shape `(n_requests, dimension + n_text_features + reach.width)`."""
        return np.hstack([self.embeddings, self.text, reach.read(self.requests)])
