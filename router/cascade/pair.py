"""Two models in turn: how sure the first one's answer is, and what the second would make of the request then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.cascade.posterior import Posterior, logits, sigmoid

_PRIOR_DEVIATION = 1.0
"""Of a shift, in logits: what few outcomes say of it is drawn towards 0."""
_STEPS = 25


@dataclass(frozen=True, eq=False)
class Pair:
    """`first` answers, `second` is asked where that answer is not sure enough; both by name.

    `verifier` is the first one's posterior. `shifts` (2,): what is added to the logit of the second one's success where
    the first was wrong, and where it was right: requests that one model fails are harder for others too.
    """

    first: str
    second: str
    verifier: Posterior
    shifts: FloatArray

    @classmethod
    def fit(cls, first: str, second: str, verifier: Posterior, prior_second: FloatArray, scores: FloatArray) -> Pair:
        """Shifts from the second one's prior (n,) and both scores (n, 2); rows where one is unknown are left out."""
        known = np.isfinite(scores).all(axis=1)
        return cls(first, second, verifier, _shifts(logits(prior_second[known]), scores[known]))

    def posterior(self, prior: FloatArray, signals: FloatArray) -> FloatArray:
        """(n,) P(the first answer is right), from what was expected of it (n,) and its signals (n, 4)."""
        return self.verifier(prior, signals)

    def second_given(self, prior_second: FloatArray, sure: FloatArray) -> FloatArray:
        """P(the second is right) where its own prior and P(the first is right) are these; of one shape."""
        of_wrong, of_right = self.second_by_outcome(prior_second)
        return sure * of_right + (1 - sure) * of_wrong

    def second_by_outcome(self, prior_second: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P(the second is right) where the first was wrong, and where it was right; as `prior_second` in shape."""
        logit = logits(prior_second)
        return sigmoid(logit + self.shifts[0]), sigmoid(logit + self.shifts[1])

    def threshold(self, prior_second: FloatArray, charge: FloatArray) -> FloatArray:
        """The least P(the first is right) with which its answer is kept; below 0 it always is, above 1 never.

        The answer is kept where it is worth no less than the second one less the `charge`, which is what asking costs
        at the batch's shadow prices: `sure >= second_given(sure) - charge`, which is linear in `sure`.
        """
        of_wrong, of_right = self.second_by_outcome(prior_second)
        return np.asarray((of_wrong - charge) / np.maximum(1 - of_right + of_wrong, 1e-12))


def _shifts(logit: FloatArray, scores: FloatArray) -> FloatArray:
    """(2,) the likeliest shifts under a normal prior, by Newton's method: one number each, of a concave function."""
    of_first = np.stack([1 - scores[:, 0], scores[:, 0]])
    shift = np.zeros(2)
    for _ in range(_STEPS):
        p = sigmoid(logit + shift[:, None])
        slope = (of_first * (scores[:, 1] - p)).sum(axis=1) - shift / _PRIOR_DEVIATION**2
        curvature = (of_first * p * (1 - p)).sum(axis=1) + 1 / _PRIOR_DEVIATION**2
        shift = shift + np.clip(slope / curvature, -1.0, 1.0)
    return shift
