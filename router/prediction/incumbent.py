"""The best single model keeps its place unless held-out outcomes prove another one better.

Where money is no limit, routing takes the likeliest model of each request. Of several estimates the highest is
too high on average (Smith and Winkler 2006, "The Optimizer's Curse"), so routing can then do worse than the
best single model alone. The mend: a model counts as better than the best single one, the *incumbent*, only
where it is predicted to be better by more than a margin with which switching has paid on held-out requests
beyond doubt. Elsewhere the incumbent's estimate is lifted to the challenger's: the two then
differ in cost alone, and all other comparisons stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import FloatArray
from apportion.router.prediction.prediction import Prediction

CONFIDENCE_Z = 2.326
"""One-sided 99 % for each margin. As many are tried, some margin passes in about one table of ten whose models are
equally good (simulated: 8 % with 352 rows, 14 % with 3,000)."""
FEWEST_SWITCHES = 30
"""Fewer requests than this prove nothing, whatever their spread looks like."""
_ABOVE = 1e-9


@dataclass(frozen=True)
class Incumbent:
    """`model` is the incumbent's column; `margins` `(M,)` is the predicted advantage in success that each
    other model needs over it: 0 to be taken at its word, 1 never to count as better.
    """

    model: int
    margins: FloatArray

    @classmethod
    def fit(cls, success: ArrayLike, scores: ArrayLike, model: int) -> Incumbent:
        """One margin for all models from calibrated estimates and scores `(N, M)` of held-out requests.

        Requests where the incumbent's or the challenger's score is unknown (NaN) are left out.
        """
        estimates, outcomes = np.asarray(success, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        margins = np.full(estimates.shape[1], _margin(*_switches(estimates, outcomes, model)))
        margins[model] = 0.0
        return cls(model, margins)

    def apply(self, prediction: Prediction) -> Prediction:
        """The prediction with the incumbent's success, and every member's, lifted to the best unproven claim;
        `calibrated_success` keeps what stood there before.
        """
        claims = prediction.success - prediction.success[:, [self.model]]
        unproven = np.where(claims <= self.margins, claims, 0.0).max(axis=1)
        lift = np.where(unproven > 0, unproven + _ABOVE, 0.0)
        success, samples = prediction.success.copy(), prediction.success_samples.copy()
        success[:, self.model] = np.minimum(success[:, self.model] + lift, 1.0)
        samples[:, :, self.model] = np.minimum(samples[:, :, self.model] + lift, 1.0)
        return replace(prediction, success=success, success_samples=samples, calibrated_success=prediction.success)

    def select(self, columns: Sequence[int]) -> Incumbent:
        """For these columns; without the incumbent among them all are taken at their word."""
        chosen = list(columns)
        if self.model not in chosen:
            return Incumbent(0, np.zeros(len(chosen)))
        return Incumbent(chosen.index(self.model), self.margins[chosen])

    def with_new_models(self, count: int) -> Incumbent:
        """With models behind the known ones that are taken at their word, as nothing is known of them beside
        the incumbent.
        """
        return Incumbent(self.model, np.concatenate([self.margins, np.zeros(count)]))


def _switches(estimates: FloatArray, outcomes: FloatArray, model: int) -> tuple[FloatArray, FloatArray]:
    """Of every request where another model is predicted to be better: its claim, and what switching gained."""
    others = estimates.copy()
    others[:, model] = -np.inf
    rows, challenger = np.arange(len(estimates)), others.argmax(axis=1)
    claims = others[rows, challenger] - estimates[:, model]
    gains = outcomes[rows, challenger] - outcomes[:, model]
    kept = (claims > 0) & ~np.isnan(gains)
    return claims[kept], gains[kept]


def _margin(claims: FloatArray, gains: FloatArray) -> float:
    """Of the margins above which switching pays for certain the one that gains most; 1 if there is none."""
    order = np.argsort(-claims, kind="stable")
    claims, gains = claims[order], gains[order]
    below = np.append(claims[1:], 0.0)
    count, total = np.arange(1, len(claims) + 1), np.cumsum(gains)
    mean = total / count
    spread = np.sqrt(np.maximum(np.cumsum(gains**2) / count - mean**2, 0.0) / count)
    pays = (count >= FEWEST_SWITCHES) & (mean > 0) & (mean >= CONFIDENCE_Z * spread)
    # Equal claims stand or fall together.
    pays &= below < claims
    return float(below[np.where(pays, total, -np.inf).argmax()]) if pays.any() else 1.0
