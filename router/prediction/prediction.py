"""What is predicted of a batch: success, its spread, and output tokens, for every request on every model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import FloatArray


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
