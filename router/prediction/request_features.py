"""Features of a request beside its words: its traits, and how much text there is that the text's features do not see.

They are few, most of them are the same in most tables, and what is served may have what no table had. So an estimator
reads only those that varied in training, and each no further than training has seen it (`Reach`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apportion.router.prediction.text_features import MAX_BYTES
from apportion.router.traits import PLAIN, Traits

REQUEST_FEATURES = (*Traits._fields, "unread_chars")
"""Names of the columns of `request_features`, in order; an artefact of another list needs another version."""

_FEWEST_ROWS = 10
"""Rows in which a feature must differ from its commonest value, since nothing can be learned from fewer."""

F32 = NDArray[np.float32]


def request_features(texts: Sequence[str], traits: Sequence[Traits] | None = None) -> F32:
    """Logarithms of the counts, `(n_texts, len(REQUEST_FEATURES))`; of plain prompts where no traits are given."""
    counted = np.array([PLAIN] * len(texts) if traits is None else traits, dtype=np.float64)
    unread = [max(0, len(text) - MAX_BYTES) for text in texts]
    return np.asarray(np.log1p(np.column_stack([counted.reshape(-1, len(PLAIN)), unread])), dtype=np.float32)


@dataclass(frozen=True)
class Reach:
    """From where to where training has seen each feature, `(K,)`; both are equal for one that it does not read."""

    low: F32
    high: F32

    @classmethod
    def of(cls, requests: F32) -> Reach:
        """Of the features of the training rows, `(N, K)`."""
        commonest = [np.unique(column, return_counts=True)[1].max(initial=0) for column in requests.T]
        varied = len(requests) - np.array(commonest) >= _FEWEST_ROWS
        low, high = requests.min(axis=0, initial=np.inf), requests.max(axis=0, initial=-np.inf)
        return cls(np.where(varied, low, 0).astype(np.float32), np.where(varied, high, 0).astype(np.float32))

    @classmethod
    def nothing(cls) -> Reach:
        """No feature is read."""
        return cls(*np.zeros((2, len(REQUEST_FEATURES)), dtype=np.float32))

    @property
    def width(self) -> int:
        """How many features are read."""
        return int((self.high > self.low).sum())

    def read(self, requests: F32) -> F32:
        """The features that are read, shape `(N, width)`: 0 at the least that training has seen, 1 at the most."""
        read = self.high > self.low
        low, high = self.low[read], self.high[read]
        return np.asarray((np.clip(requests[:, read], low, high) - low) / (high - low))
