"""Whether requests still are such as the predictor was calibrated on: how far predicted success has shifted.

Population stability index: sum of (p - q) ln(p / q) over the deciles of the calibration rows, with q the shares of
these rows and p those of the last requests. Below 0.1 little has changed, above 0.25 much has (Siddiqi 2006, "Credit
Risk Scorecards").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray

DECILES = 10
WINDOW = 1_000  # requests, the last ones
FEWEST = 200  # with fewer, chance alone gives more than it may
_LEAST_SHARE = 1e-3  # a share of nothing would make the index infinite


@dataclass(frozen=True, eq=False)
class Reference:
    """How predicted success was spread over the calibration rows.

    Args:
        edges: (M, K - 1), rising, of each model's parts.
        shares: (M, K), of the rows in each.
    """

    edges: FloatArray
    shares: FloatArray

    @classmethod
    def of(cls, success: FloatArray) -> Reference:
        """That of predictions (N, M)."""
        edges = np.quantile(success, np.arange(1, DECILES) / DECILES, axis=0).T
        return cls(edges, _shares(success, edges))

    def join(self, other: Reference) -> Reference:
        """Both models' references, these first."""
        return Reference(np.vstack([self.edges, other.edges]), np.vstack([self.shares, other.shares]))

    def select(self, columns: Sequence[int]) -> Reference:
        """That of these models."""
        return Reference(self.edges[list(columns)], self.shares[list(columns)])

    def index(self, success: FloatArray) -> FloatArray:
        """(M,) population stability index of predictions (N, M)."""
        p = np.maximum(_shares(success, self.edges), _LEAST_SHARE)
        q = np.maximum(self.shares, _LEAST_SHARE)
        return np.asarray(((p - q) * np.log(p / q)).sum(axis=1))


class Shift:
    """Predictions of the last requests.

    Args:
        n_models: M of them.
    """

    def __init__(self, n_models: int) -> None:
        self._seen = np.full((WINDOW, n_models), np.nan)
        self._count = 0

    def see(self, success: FloatArray) -> None:
        """(M,): what was predicted of one more request."""
        self._seen[self._count % WINDOW] = success
        self._count += 1

    @property
    def means(self) -> FloatArray:
        """(M,) mean prediction; NaN before the first."""
        return self._last.mean(axis=0) if self._count else np.full(self._seen.shape[1], np.nan)

    def index(self, reference: Reference, columns: Sequence[int]) -> FloatArray | None:
        """How far predictions are from the reference's, of whose models these are the columns; None: too few."""
        return reference.index(self._last[:, list(columns)]) if self._count >= FEWEST else None

    @property
    def _last(self) -> FloatArray:
        return self._seen[: min(self._count, WINDOW)]


def _shares(success: FloatArray, edges: FloatArray) -> FloatArray:
    """(M, K) of each model's predictions in its parts."""
    counts = [
        np.bincount(np.searchsorted(bounds, column, side="right"), minlength=len(bounds) + 1)
        for column, bounds in zip(success.T, edges, strict=True)
    ]
    return np.asarray(counts) / max(len(success), 1)
