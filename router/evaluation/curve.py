"""Score against spend: an arm's realised points, and what is read off them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray


@dataclass(frozen=True, eq=False)
class Curve:
    """cost_usd: (n_points,) rising realised mean cost of a request; score: (n_points,) realised mean score."""

    cost_usd: FloatArray
    score: FloatArray

    @classmethod
    def through(cls, cost_usd: FloatArray, score: FloatArray) -> Curve:
        """Points in any order; of points with equal cost the best counts."""
        order = np.lexsort((-score, cost_usd))
        cost, first = np.unique(cost_usd[order], return_index=True)
        return cls(cost, score[order][first])

    def at(self, spend_usd: FloatArray) -> FloatArray:
        """Score at a spend: linear between points, the last score beyond them, NaN below the cheapest point."""
        score = np.interp(spend_usd, self.cost_usd, self.score)
        return np.where(np.asarray(spend_usd) < self.cost_usd[0] * (1 - 1e-9), np.nan, score)

    def area(self, low_usd: float, high_usd: float) -> float:
        """Mean score over log spend between two spends; below the cheapest point its score counts."""
        grid = np.geomspace(low_usd, high_usd, 201)
        score = np.interp(grid, self.cost_usd, self.score)
        return float(np.trapezoid(score, np.log(grid)) / np.log(high_usd / low_usd))

    def cost_of(self, score: float) -> float:
        """Least spend at which the curve reaches a score, NaN if it never does."""
        if self.score[0] >= score:
            return float(self.cost_usd[0])
        above = np.flatnonzero(self.score >= score)
        if not above.size:
            return float("nan")
        k = int(above[0])
        share = (score - self.score[k - 1]) / (self.score[k] - self.score[k - 1])
        return float(self.cost_usd[k - 1] + share * (self.cost_usd[k] - self.cost_usd[k - 1]))
