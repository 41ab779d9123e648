"""One seed and one estimator: what it predicts of the test requests, and what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.cascade.gate import Gate
from apportion.router.errors import OutcomesTableError
from apportion.router.estimates import Estimates
from apportion.router.outcomes.table import FRACTIONS, OutcomesTable
from apportion.router.prediction.calibrated import Calibrated
from apportion.router.prediction.cascading import expected_costs, proved
from apportion.router.prediction.estimator import Estimator, FittedEstimator
from apportion.router.prediction.features import Features
from apportion.router.prediction.prediction import Prediction

MAX_MISSING = 0.03


@dataclass(frozen=True, eq=False)
class Sample:
    """Requests with calibrated estimates, and what really happened: score in [0, 1] and paid_usd, both (N, M), and how
    sure the models were, (N, M, 4), where that is known.
    """

    estimates: Estimates
    score: FloatArray
    paid_usd: FloatArray
    signals: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class CalibrationErrors:
    """Expected calibration error and Brier score on the test requests, before and after calibration."""

    ece_before: float
    ece_after: float
    brier_before: float
    brier_after: float


@dataclass(frozen=True, eq=False)
class Case:
    """test: the requests to route; validation: held-out requests for choices that arms have to make.

    mean_score, mean_paid_usd: (n_models,) over the training requests. best: the incumbent, which is
    the single model with the best mean training score. errors: how well the estimates are calibrated. test_rows:
    (n_test,) row numbers of the test requests in the table; raw_success: (n_test, n_models) their estimates before
    calibration. gate: what the validation requests say of cascades, where they have signals.
    """

    seed: int
    estimator: str
    models: tuple[str, ...]
    validation: Sample
    test: Sample
    mean_score: FloatArray
    mean_paid_usd: FloatArray
    best: int
    errors: CalibrationErrors
    test_rows: IntArray
    raw_success: FloatArray
    gate: Gate | None = None

    @property
    def best_score(self) -> float:
        """Mean test score of the best single model."""
        return float(self.test.score[:, self.best].mean())

    @property
    def best_cost_usd(self) -> float:
        """Mean test cost of the best single model, USD per request."""
        return float(self.test.paid_usd[:, self.best].mean())

    @property
    def oracle_score(self) -> float:
        """Mean test score of the best model of every request."""
        return float(self.test.score.max(axis=1).mean())


def usable(table: OutcomesTable, max_missing: float = MAX_MISSING) -> OutcomesTable:
    """The models with at most that share of outcomes missing, and the requests that all of them answered.

    Raises OutcomesTableError when fewer than two models or a hundred requests are left.
    """
    unknown = np.isnan(table.scores) | np.isnan(table.cost_usd)
    kept = [m for m, share in zip(table.models, unknown.mean(axis=0), strict=True) if share <= max_missing]
    if len(kept) < 2:
        raise OutcomesTableError(
            f"models: only {len(kept)} have score and cost of at least {1 - max_missing:.0%} of the requests: add "
            "costs or outcomes, or allow more to be missing"
        )
    table = table.select_models(kept)
    whole = ~(np.isnan(table.scores) | np.isnan(table.cost_usd)).any(axis=1)
    if whole.sum() < 100:
        raise OutcomesTableError(f"requests: {whole.sum()} have all outcomes, add some, at least 100 are needed")
    return table.subset(whole)


def fit_case(
    table: OutcomesTable,
    features: Features,
    name: str,
    recipe: Estimator[FittedEstimator],
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
) -> Case:
    """Fit on the training rows, calibrate on the validation rows, and predict both held-out parts as a predictor
    trained on this table, split and seed would.
    """
    parts = table.split_rows(seed, fractions)
    train, validation, test = ((features.subset(rows), table.subset(rows)) for rows in parts)
    fitted = Calibrated.fit(recipe, train, validation, seed)
    known = train[1]
    raw = fitted.estimator.predict(test[0])
    report = fitted.report(*test, "test")
    return Case(
        seed=seed,
        estimator=name,
        models=table.models,
        validation=_sample(fitted.predict(validation[0]), validation[1], known),
        test=_sample(fitted.finish(raw), test[1], known),
        mean_score=fitted.mean_success,
        mean_paid_usd=known.cost_usd.mean(axis=0),
        best=fitted.incumbent.model,
        errors=CalibrationErrors(report.ece_before, report.ece_after, report.brier_before, report.brier_after),
        test_rows=parts[2],
        raw_success=raw.success,
        gate=proved(fitted, *validation, known, seed),
    )


def _sample(prediction: Prediction, table: OutcomesTable, known: OutcomesTable) -> Sample:
    cost_usd, cost_std_usd = expected_costs(prediction, table, known)
    estimates = Estimates(
        success=prediction.success,
        success_std=prediction.success_std,
        success_samples=prediction.success_samples,
        cost_usd=cost_usd,
        cost_std_usd=cost_std_usd,
        input_tokens=table.input_tokens,
        output_tokens=prediction.output_tokens,
    )
    return Sample(estimates=estimates, score=table.scores, paid_usd=table.cost_usd, signals=table.signals)
