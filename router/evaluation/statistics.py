"""Means over seeds with their 95 % intervals, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.evaluation.protocol import Measure, Row


@dataclass(frozen=True)
class Summary:
    """mean over n seeds; half_width of its 95 % interval (Student's t), NaN for one seed."""

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Mean and interval of the values; NaN throughout if any is missing."""
        from scipy.stats import t

        array = np.asarray(values, np.float64)
        n = len(array)
        if n < 2:
            return cls(float(array.mean()) if n else float("nan"), float("nan"), n)
        width = float(t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
        return cls(float(array.mean()), width, n)

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}" if np.isfinite(self.half_width) else f"{self.mean:.4f}"


def summarise_rows(rows: Sequence[Row]) -> dict[tuple[str, str], dict[float, Summary]]:
    """By (estimator, arm) and budget fraction: score over the best single model's, over seeds.

    Single models come at their own cost, the same fraction for all seeds being their mean.
    """
    values: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows:
        if not row.arm.startswith("single:"):
            score = float("nan") if row.score is None else row.score / row.best_single_score
            by_fraction = values.setdefault((row.estimator, row.arm), {})
            by_fraction.setdefault(row.budget_fraction, []).append(score)
    return {key: {f: Summary.of(v) for f, v in by.items()} for key, by in values.items()}


def summarise_areas(measures: Sequence[Measure]) -> dict[tuple[str, str], Summary]:
    """By (estimator, arm): area under the score against log spend, over seeds."""
    values: dict[tuple[str, str], list[float]] = {}
    for measure in measures:
        values.setdefault((measure.estimator, measure.arm), []).append(measure.area)
    return {key: Summary.of(v) for key, v in values.items()}


def paired_difference(measures: Sequence[Measure], one: tuple[str, str], other: tuple[str, str]) -> Summary:
    """Area of `one` (estimator, arm) less that of `other`, seed by seed."""

    def areas(which: tuple[str, str]) -> dict[int, float]:
        return {m.seed: m.area for m in measures if (m.estimator, m.arm) == which}

    first, second = areas(one), areas(other)
    return Summary.of([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
