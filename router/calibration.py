"""Calibration: temperature scaling, then histogram bucketing, per model; and how good estimates are.

Temperature: Guo et al. 2017 ("On Calibration of Modern Neural Networks"), one T per model, p =
sigmoid(logit / T), with a prior around the temperature that suits all models. Buckets: Zadrozny and Elkan
2001, equally filled, each standing for the mean score of the held-out requests in it. Two changes keep what
routing needs. A bucket holds few rows, so its gap to the temperature-scaled estimate is shrunk by the share
of it that chance explains. And between the buckets' centres the values are interpolated and never fall, so
that two requests of one bucket keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from apportion.router.arrays import BoolArray, FloatArray

_EPSILON = 1e-4
_GRID = 512
_TEMPERATURE_SPREAD = 0.1
_TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(4.0), 81))


@dataclass(frozen=True)
class Calibration:
    """Per model: `temperatures` `(M,)`, and buckets `(M, K)` with the temperature-scaled mean estimate of
    each (`bucket_estimates`, rising) and what it stands for (`bucket_values`).
    """

    temperatures: FloatArray
    bucket_estimates: FloatArray
    bucket_values: FloatArray
    _curves: FloatArray = field(init=False, repr=False, compare=False)

    @classmethod
    def fit(cls, success: ArrayLike, scores: ArrayLike, buckets: int = 10) -> Calibration:
        """Fit to estimates and scores `(N, M)` of requests the estimator has not seen; NaN scores are left
        out.

        A model without any score keeps its estimates.
        """
        estimates, outcomes = np.asarray(success, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        known = [_known(p, y) for p, y in zip(estimates.T, outcomes.T, strict=True)]
        temperatures = _temperatures(known)
        fitted = [_buckets(p, y, t, buckets) for (p, y), t in zip(known, temperatures, strict=True)]
        means, scores_of, sizes = (np.array(part) for part in zip(*fitted, strict=True))
        seen = sizes > 0
        noise = np.where(seen, means * (1 - means) / np.maximum(sizes, 1), np.inf)
        gaps = np.where(seen, scores_of - means, 0.0)
        values = means + _trust(gaps, noise, seen) * gaps
        rising = [_rising(v, np.maximum(n, 1)) for v, n in zip(values, sizes, strict=True)]
        return cls(temperatures, means, np.array(rising))

    @classmethod
    def identity(cls, n_models: int, buckets: int = 10) -> Calibration:
        """The calibration that changes nothing."""
        knots = np.tile(np.linspace(0.0, 1.0, buckets), (n_models, 1))
        return cls(np.ones(n_models), knots, knots.copy())

    def __post_init__(self) -> None:
        grid = np.linspace(0.0, 1.0, _GRID + 1)
        curves = [
            _interpolate(_temper(grid, t), x, y)
            for t, x, y in zip(self.temperatures, self.bucket_estimates, self.bucket_values, strict=True)
        ]
        object.__setattr__(self, "_curves", np.array(curves).reshape(len(self.temperatures), _GRID + 1))

    def apply(self, success: ArrayLike) -> FloatArray:
        """Calibrated estimates, for `(..., M)`."""
        estimates = np.asarray(success, dtype=np.float64)
        position = estimates * _GRID
        left = np.minimum(position.astype(np.int64), _GRID - 1)
        model = np.arange(estimates.shape[-1])
        low, high = self._curves[model, left], self._curves[model, left + 1]
        return np.asarray(low + (position - left) * (high - low))

    def invert(self, success: FloatArray, model: int) -> FloatArray:
        """The estimates of one model that stand for these values, of any shape; the range's ends for values beyond."""
        return np.asarray(np.interp(success, self._curves[model], np.linspace(0.0, 1.0, _GRID + 1)))

    def select(self, columns: Sequence[int]) -> Calibration:
        """The calibrations of these models."""
        rows = list(columns)
        return Calibration(self.temperatures[rows], self.bucket_estimates[rows], self.bucket_values[rows])

    def where(self, chosen: BoolArray, other: Calibration) -> Calibration:
        """This one for the models that are chosen, (M,), the other one for the rest."""
        rows = chosen[:, None]
        return Calibration(
            np.where(chosen, self.temperatures, other.temperatures),
            np.where(rows, self.bucket_estimates, other.bucket_estimates),
            np.where(rows, self.bucket_values, other.bucket_values),
        )

    def join(self, other: Calibration) -> Calibration:
        """Both models' calibrations, these first."""
        return Calibration(
            np.concatenate([self.temperatures, other.temperatures]),
            np.concatenate([self.bucket_estimates, other.bucket_estimates]),
            np.concatenate([self.bucket_values, other.bucket_values]),
        )


def expected_calibration_error(success: ArrayLike, scores: ArrayLike, buckets: int = 10) -> float:
    """ECE over all known outcomes: equally filled buckets, mean of |mean estimate - mean score|, weighted
    by size.

    Finite samples alone give about 0.3 * sqrt(buckets / outcomes) for perfect estimates.
    """
    p, y = _known(success, scores)
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, buckets) if len(part)]
    return float(sum(len(part) * abs(p[part].mean() - y[part].mean()) for part in parts) / max(len(p), 1))


def brier_score(success: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared difference of estimate and score over all known outcomes."""
    p, y = _known(success, scores)
    return float(np.mean((p - y) ** 2)) if len(p) else float("nan")


def _known(success: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    p, y = np.asarray(success, dtype=np.float64).ravel(), np.asarray(scores, dtype=np.float64).ravel()
    known = ~np.isnan(y)
    return p[known], y[known]


def _temperatures(known: Sequence[tuple[FloatArray, FloatArray]]) -> FloatArray:
    """One temperature a model: the likeliest, with a log-normal prior around the one that suits all models.

    Independent temperatures would move models against each other by chance, which costs more in routing than
    they mend.
    """
    losses = np.array([_losses_by_temperature(p, y) for p, y in known])
    logs = np.log(_TEMPERATURES)
    common = logs[int(np.argmin(losses.sum(axis=0)))] if sum(len(p) for p, _ in known) else 0.0
    penalty = (logs - common) ** 2 / (2 * _TEMPERATURE_SPREAD**2)
    best = _TEMPERATURES[np.argmin(losses + penalty, axis=1)]
    return np.where([len(p) > 0 for p, _ in known], best, 1.0)


def _losses_by_temperature(p: FloatArray, y: FloatArray) -> FloatArray:
    """Summed log loss of one model's rows at every temperature of the grid."""
    tempered = _temper(p[None, :], _TEMPERATURES[:, None])
    return np.asarray(-(y * np.log(tempered) + (1 - y) * np.log1p(-tempered)).sum(axis=1))


def _buckets(
    p: FloatArray, y: FloatArray, temperature: float, buckets: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of every bucket of one model its mean tempered estimate, mean score and number of rows."""
    if not len(p):
        knots = np.linspace(0.0, 1.0, buckets)
        return knots, knots, np.zeros(buckets)
    scaled = _temper(p, temperature)
    parts = np.array_split(np.argsort(scaled, kind="stable"), buckets)
    # With fewer rows than buckets, the last row fills those that are left over.
    parts = [part if len(part) else np.argsort(scaled, kind="stable")[-1:] for part in parts]
    return (
        np.array([scaled[part].mean() for part in parts]),
        np.array([y[part].mean() for part in parts]),
        np.array([float(len(part)) for part in parts]),
    )


def _trust(gaps: FloatArray, noise: FloatArray, seen: BoolArray) -> FloatArray:
    """Share of every bucket's gap that is not noise: `noise` is the variance that chance alone would give it.

    Method of moments (DerSimonian and Laird 1986, section 2.2), one variance of real gaps for all models.
    Their gaps are of the same requests, so chance moves them together: only what exceeds it twice counts.
    """
    real = max(0.0, float(np.mean(gaps[seen] ** 2 - 2 * noise[seen]))) if seen.any() else 0.0
    return real / (real + noise)


def _temper(p: FloatArray, temperature: ArrayLike) -> FloatArray:
    clipped = np.clip(p, _EPSILON, 1 - _EPSILON)
    logit = np.log(clipped / (1 - clipped))
    tempered = 1 / (1 + np.exp(-logit / np.asarray(temperature)))
    return np.asarray(np.clip(tempered, _EPSILON, 1 - _EPSILON))


def _rising(values: FloatArray, sizes: FloatArray) -> FloatArray:
    from sklearn.isotonic import isotonic_regression

    return np.asarray(isotonic_regression(values, sample_weight=sizes))


def _interpolate(p: FloatArray, estimates: FloatArray, values: FloatArray) -> FloatArray:
    """Piecewise linear through the buckets; outside them the first and last shift, kept within (0, 1)."""
    inside = np.interp(p, estimates, values)
    below = p * (values[0] / max(estimates[0], _EPSILON))
    above = 1 - (1 - p) * ((1 - values[-1]) / max(1 - estimates[-1], _EPSILON))
    curve = np.where(p < estimates[0], below, np.where(p > estimates[-1], above, inside))
    return np.clip(curve, 0.0, 1.0)
