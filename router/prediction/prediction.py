"""What is predicted of a batch: success, its spread, and output tokens, for every request on every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import FloatArray
from apportion.router.prices import ModelPrice, price_arrays

_FAR = 1e100
"""Stands for no limit where infinity times a tail of zero would have no value."""


@dataclass(frozen=True)
class Prediction:
    """Estimates of N requests on M models.

    `success` `(N, M)` is P(the model answers well), `success_std` `(N, M)` the spread of that estimate over
    the ensemble, `success_samples` `(B, N, M)` each member's own estimate; `output_tokens` and
    `output_tokens_std` `(N, M)` are the mean and standard deviation of the length of the answer (NaN when
    the data held no lengths). `calibrated_success` `(N, M)` is `success` before the incumbent's was lifted over
    unproven claims (`router/prediction/incumbent.py`); None where nothing was lifted.
    """

    success: FloatArray
    success_std: FloatArray
    success_samples: FloatArray
    output_tokens: FloatArray
    output_tokens_std: FloatArray
    calibrated_success: FloatArray | None = None

    @classmethod
    def from_samples(cls, samples: ArrayLike, output_tokens: ArrayLike, output_tokens_std: ArrayLike) -> Prediction:
        """Mean and spread of the members' success `(B, N, M)`, beside token estimates `(N, M)`."""
        members = np.asarray(samples, dtype=np.float64)
        return cls(
            success=members.mean(axis=0),
            success_std=members.std(axis=0),
            success_samples=members,
            output_tokens=np.asarray(output_tokens, dtype=np.float64),
            output_tokens_std=np.asarray(output_tokens_std, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.success)

    def cost_usd(
        self,
        input_tokens: ArrayLike,
        prices: Sequence[ModelPrice],
        max_output_tokens: ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the cost in USD, both `(N, M)`.

        `input_tokens` is `(N, M)` or `(N,)`; `prices` has one entry per model. With `max_output_tokens`
        `(N,)` the answer's length is a log-normal variable cut off there (its first two moments, in closed
        form).
        """
        usd_per_input, usd_per_output = price_arrays(prices)
        counts = np.asarray(input_tokens, dtype=np.float64)
        counts = counts[:, None] if counts.ndim == 1 else counts
        mean, std = self.output_tokens, self.output_tokens_std
        if max_output_tokens is not None:
            mean, std = _cut_off(mean, std, np.asarray(max_output_tokens, dtype=np.float64)[:, None])
        return counts * usd_per_input + mean * usd_per_output, std * usd_per_output


def _cut_off(mean: FloatArray, std: FloatArray, limit: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of min(L, limit) for a log-normal L with the given two moments."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.maximum(np.log1p((std / mean) ** 2), 1e-12)
        centre = np.log(mean) - variance / 2
        z = (np.log(limit) - centre) / np.sqrt(variance)
    tail, limit = ndtr(-z), np.minimum(limit, _FAR)
    first = mean * ndtr(z - np.sqrt(variance)) + limit * tail
    second = (mean**2 + std**2) * ndtr(z - 2 * np.sqrt(variance)) + limit**2 * tail
    empty = mean <= 0
    first = np.where(empty, np.minimum(mean, limit), first)
    spread = np.sqrt(np.maximum(second - first**2, 0.0))
    return first, np.where(empty, np.minimum(std, limit), spread)
