"""How sure a first answer is: P(it is right), from what was expected of it and how sure its model was of its words.

A logistic regression on the logit of what was expected (the prior) and on the four `Signals`, then the buckets of
`router/calibration.py`. Only a sum of the signals, the *evidence*, moves the estimate of a request, so that "keep the
answer if it is sure enough" is a threshold on one number. How the evidence of right and of wrong answers is spread, a
normal distribution each whose mean follows the prior, says before anything is asked how often it will pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.calibration import Calibration

FEWEST_EACH = 20
"""Right answers, and wrong ones, that a posterior is learned from."""

_EPSILON = 1e-4
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class Posterior:
    """Of one model.

    `coefficients` (6,): intercept, weight of the prior's logit, weight of each signal. `calibration` is of one column.
    `spread` (5,): of the evidence the intercept, the slope on the prior's logit and the shift of right answers, which
    make its means, and its standard deviation among wrong and among right answers.
    """

    coefficients: FloatArray
    calibration: Calibration
    spread: FloatArray

    @classmethod
    def fit(cls, prior: FloatArray, signals: FloatArray, scores: FloatArray) -> Posterior:
        """Learn from answers that neither the prior nor its calibration was trained on.

        Args:
            prior: (n,) P(right) before the answer.
            signals: (n, 4) in the order of `SIGNALS`.
            scores: (n,) in [0, 1]; a score between counts as right and wrong, by its share.

        Answers without signals or score are left out; ask `learnable` whether enough are left.
        """
        known = _known(signals, scores)
        logit, seen, share = logits(prior[known]), signals[known], scores[known]
        coefficients = _logistic(np.column_stack([logit, seen]), share)
        evidence = seen @ coefficients[2:]
        raw = sigmoid(coefficients[0] + coefficients[1] * logit + evidence)
        calibration = Calibration.fit(raw[:, None], share[:, None])
        return cls(coefficients, calibration, _spread(evidence, logit, share))

    def __call__(self, prior: FloatArray, signals: FloatArray) -> FloatArray:
        """(n,) P(right) of answers with these signals (n, 4); the prior (n,) where there are none."""
        known: BoolArray = np.asarray(np.isfinite(signals).all(axis=1))
        evidence = np.where(known[:, None], signals, 0.0) @ self.coefficients[2:]
        raw = sigmoid(self.coefficients[0] + self.coefficients[1] * logits(prior) + evidence)
        return np.where(known, self.calibration.apply(raw[:, None])[:, 0], prior)

    def passing(self, prior: FloatArray, threshold: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P(the estimate will be at least `threshold`) of a right answer, and of a wrong one; both of one shape."""
        from scipy.special import ndtr

        logit = logits(prior)
        needed = logits(self.calibration.invert(threshold, 0), 1e-12)
        needed = needed - self.coefficients[0] - self.coefficients[1] * logit
        wrong = self.spread[0] + self.spread[1] * logit
        of_right = ndtr((wrong + self.spread[2] - needed) / self.spread[4])
        of_wrong = ndtr((wrong - needed) / self.spread[3])
        never, always = threshold > 1, threshold <= 0
        of_right, of_wrong = (np.where(never, 0.0, np.where(always, 1.0, share)) for share in (of_right, of_wrong))
        return of_right, of_wrong


def learnable(signals: FloatArray, scores: FloatArray) -> bool:
    """Whether there are enough right and wrong answers (n,) with signals (n, 4) to learn a posterior from."""
    share = scores[_known(signals, scores)]
    return bool(min(share.sum(), (1 - share).sum()) >= FEWEST_EACH)


def logits(p: FloatArray, least: float = _EPSILON) -> FloatArray:
    """Log odds, of probabilities held away from 0 and 1."""
    held = np.clip(p, least, 1 - least)
    return np.asarray(np.log(held / (1 - held)))


def sigmoid(logit: FloatArray) -> FloatArray:
    """The probabilities of log odds."""
    from scipy.special import expit

    return np.asarray(expit(logit))


def _known(signals: FloatArray, scores: FloatArray) -> BoolArray:
    return np.asarray(np.isfinite(signals).all(axis=1) & np.isfinite(scores))


def _logistic(features: FloatArray, share: FloatArray) -> FloatArray:
    """Intercept and weights (1 + n_features,) of a logistic regression, lightly held towards 0."""
    from sklearn.linear_model import LogisticRegression

    centre, scale = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST_SPREAD)
    scaled = (features - centre) / scale
    rows, right, weight = _as_classes(share)
    fitted = LogisticRegression(solver="newton-cholesky").fit(scaled[rows], right, sample_weight=weight)
    weights = fitted.coef_[0] / scale
    return np.concatenate([fitted.intercept_ - weights @ centre, weights])


def _spread(evidence: FloatArray, logit: FloatArray, share: FloatArray) -> FloatArray:
    """Least squares of the evidence on the prior and on being right, and what is left within either class."""
    rows, right, weight = _as_classes(share)
    design = np.column_stack([np.ones(len(rows)), logit[rows], right])
    root = np.sqrt(weight)
    means = np.linalg.lstsq(design * root[:, None], evidence[rows] * root, rcond=None)[0]
    left = weight * (evidence[rows] - design @ means) ** 2
    deviations = [np.sqrt(left[right == outcome].sum() / weight[right == outcome].sum()) for outcome in (False, True)]
    return np.concatenate([means, np.maximum(deviations, _LEAST_SPREAD)])


def _as_classes(share: FloatArray) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Rows, class and weight of each answer as a right and a wrong one; those that weigh nothing are left out."""
    weight = np.concatenate([1 - share, share])
    kept = weight > 0
    rows, right = np.tile(np.arange(len(share)), 2), np.repeat([False, True], len(share))
    return rows[kept], right[kept], weight[kept]
