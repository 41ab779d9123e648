"""One seed and one estimator: what it predicts of the test requests, and what really happened."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.costs import expected_cost
from apportion.router.errors import OutcomesTableError
from apportion.router.estimates import Estimates
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.calibration import Calibration, brier_score, expected_calibration_error
from apportion.router.prediction.estimator import Estimator, FittedEstimator
from apportion.router.prediction.features import Features
from apportion.router.prediction.incumbent import Incumbent
from apportion.router.prediction.prediction import Prediction
from apportion.router.prediction.predictor import calibrated

FRACTIONS = (0.7, 0.1, 0.2)
MAX_MISSING = 0.03


@dataclass(frozen=True, eq=False)
class Sample:
    """Requests with calibrated estimates, and what really happened: score in [0, 1] and paid_usd, both (N, M)."""

    estimates: Estimates
    score: FloatArray
    paid_usd: FloatArray

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

    mean_score, mean_paid_usd: (n_models,) over the training requests. best: the single model with the best mean
    training score, the cheaper one of equals. errors: how well the estimates are calibrated. test_rows: (n_test,) row
    numbers of the test requests in the table; raw_success: (n_test, n_models) their estimates before calibration.
    """

    seed: int
    estimator: str
    models: tuple[str, ...]
    validation: Sample
    test: Sample
    mean_score: FloatArray
    mean_paid_usd: FloatArray
    errors: CalibrationErrors
    test_rows: IntArray
    raw_success: FloatArray

    @property
    def best(self) -> int:
        return best_single(self.mean_score, self.mean_paid_usd)

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


def best_single(mean_score: FloatArray, mean_paid_usd: FloatArray) -> int:
    """The model with the best mean score, the cheaper one of equals."""
    return int(np.lexsort((mean_paid_usd, -mean_score))[0])


def usable(table: OutcomesTable, max_missing: float = MAX_MISSING) -> OutcomesTable:
    """The models with at most that share of outcomes missing, and the requests that all of them answered.

    Raises OutcomesTableError when fewer than two models or a hundred requests are left.
    """
    unknown = np.isnan(table.scores) | np.isnan(table.cost_usd)
    kept = [m for m, share in zip(table.models, unknown.mean(axis=0), strict=True) if share <= max_missing]
    if len(kept) < 2:
        raise OutcomesTableError(
            f"Only {len(kept)} models have score and cost of at least {1 - max_missing:.0%} of the requests: add "
            "costs or outcomes, or allow more to be missing."
        )
    table = table.select_models(kept)
    whole = ~(np.isnan(table.scores) | np.isnan(table.cost_usd)).any(axis=1)
    if whole.sum() < 100:
        raise OutcomesTableError(f"{whole.sum()} requests have all outcomes: at least 100 are needed.")
    return table.subset(whole)


def split_rows(n: int, seed: int) -> tuple[IntArray, ...]:
    """Row numbers of train, validation and test."""
    order = np.random.default_rng(seed).permutation(n)
    return tuple(np.split(order, np.round(np.cumsum(FRACTIONS)[:2] * n).astype(int)))


def fit_case(table: OutcomesTable, features: Features, name: str, estimator: Estimator, seed: int) -> Case:
    """Fit on the training rows, calibrate on the validation rows, predict both held-out parts; the best single model
    keeps its place.
    """
    return with_incumbent(estimated_case(table, features, name, estimator, seed))


def with_incumbent(case: Case) -> Case:
    """The case with the best single model's estimates lifted over claims that validation outcomes do not prove."""
    incumbent = Incumbent.fit(case.validation.estimates.success, case.validation.score, case.best)

    def lifted(sample: Sample) -> Sample:
        own, unknown = sample.estimates, np.full(sample.score.shape, np.nan)
        spread, members = np.asarray(own.success_std), np.asarray(own.success_samples)
        kept = incumbent.apply(Prediction(own.success, spread, members, unknown, unknown))
        return replace(sample, estimates=replace(own, success=kept.success, success_samples=kept.success_samples))

    test = lifted(case.test)
    return replace(case, validation=lifted(case.validation), test=test, errors=_errors(case.raw_success, test))


def estimated_case(table: OutcomesTable, features: Features, name: str, estimator: Estimator, seed: int) -> Case:
    """`fit_case` with every calibrated estimate taken at its word."""
    train, validation, test = split_rows(len(table), seed)
    fitted = estimator.fit(
        features.subset(train), table.subset(train),
        (features.subset(validation), table.subset(validation)), seed,
    )  # fmt: skip
    raw = fitted.predict(features.subset(validation)).success
    calibration = Calibration.fit(raw, table.subset(validation).scores)
    known = table.subset(train)
    samples = [
        _sample(fitted, calibration, features.subset(rows), table.subset(rows), known) for rows in (validation, test)
    ]
    before = fitted.predict(features.subset(test)).success
    return Case(
        seed=seed,
        estimator=name,
        models=table.models,
        validation=samples[0],
        test=samples[1],
        mean_score=known.scores.mean(axis=0),
        mean_paid_usd=known.cost_usd.mean(axis=0),
        errors=_errors(before, samples[1]),
        test_rows=test,
        raw_success=before,
    )


def _errors(raw: FloatArray, test: Sample) -> CalibrationErrors:
    return CalibrationErrors(
        ece_before=expected_calibration_error(raw, test.score),
        ece_after=expected_calibration_error(test.estimates.success, test.score),
        brier_before=brier_score(raw, test.score),
        brier_after=brier_score(test.estimates.success, test.score),
    )


def _sample(
    fitted: FittedEstimator,
    calibration: Calibration,
    features: Features,
    table: OutcomesTable,
    known: OutcomesTable,
) -> Sample:
    prediction = calibrated(fitted.predict(features), calibration)
    cost, spread = np.full(table.scores.shape, np.nan), np.full(table.scores.shape, np.nan)
    if len(table.prices) == len(table.models):
        # Recorded answers were not cut off, so neither are the expected ones.
        cost, spread = expected_cost(
            prediction.output_tokens, prediction.output_tokens_std, table.input_tokens, table.price_list()
        )
    # Without lengths or prices a model's mean cost is all that is known.
    fallback, fallback_spread = known.cost_usd.mean(axis=0), known.cost_usd.std(axis=0)
    estimates = Estimates(
        success=prediction.success,
        success_std=prediction.success_std,
        success_samples=prediction.success_samples,
        cost_usd=np.where(np.isfinite(cost), cost, fallback),
        cost_std_usd=np.where(np.isfinite(spread), spread, fallback_spread),
        input_tokens=table.input_tokens,
        output_tokens=prediction.output_tokens,
    )
    return Sample(estimates=estimates, score=table.scores, paid_usd=table.cost_usd)
