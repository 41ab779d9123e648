"""An outcomes table as what the head is trained on: scores and log lengths, with masks for what is
unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.outcomes.table import OutcomesTable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Targets:
    """Scores and standardised log tokens `(n, M)`, zero where unknown, with masks that say where that is."""

    scores: torch.Tensor
    score_known: torch.Tensor
    lengths: torch.Tensor
    length_known: torch.Tensor
    mean_score: FloatArray
    log_mean: FloatArray
    log_std: FloatArray

    @classmethod
    def of(cls, table: OutcomesTable, scaling: Targets | None = None) -> Targets:
        """Targets of the table, log tokens standardised per model by itself or as in `scaling`."""
        import torch

        known, logs = ~np.isnan(table.scores), np.log(np.maximum(table.output_tokens, 1.0))
        if scaling is None:
            table.require_scores()
            log_mean, log_std = _moments(logs)
            mean_score = np.nansum(table.scores, axis=0) / known.sum(axis=0)
        else:
            log_mean, log_std, mean_score = scaling.log_mean, scaling.log_std, scaling.mean_score
        arrays = (
            np.nan_to_num(table.scores),
            known,
            np.nan_to_num((logs - log_mean) / log_std),
            ~np.isnan(logs),
        )
        scores, score_known, lengths, length_known = (torch.from_numpy(values.astype(np.float32)) for values in arrays)
        return cls(scores, score_known, lengths, length_known, mean_score, log_mean, log_std)

    def subset(self, rows: IntArray) -> Targets:
        """These rows."""
        names = ("scores", "score_known", "lengths", "length_known")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def _moments(logs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of every column's known entries; (0, 1) for a column without any."""
    known = np.maximum((~np.isnan(logs)).sum(axis=0), 1)
    mean = np.nansum(logs, axis=0) / known
    std = np.sqrt(np.nansum((logs - mean) ** 2, axis=0) / known)
    return mean, np.where(std > 1e-6, std, 1.0)
