"""Estimator, calibration and incumbent as one: what `train` saves, `evaluate` measures, the service asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.calibration import Calibration, brier_score, expected_calibration_error
from apportion.router.drift.shift import Reference
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.artefact import CalibrationRecord
from apportion.router.prediction.estimator import Estimator, FittedEstimator, Steps, StorableEstimator
from apportion.router.prediction.features import Features
from apportion.router.prediction.incumbent import FEWEST_SWITCHES, Incumbent
from apportion.router.prediction.prediction import Prediction

F = TypeVar("F", bound=FittedEstimator)
Rows = tuple[Features, OutcomesTable]
"""Features and outcomes of the same requests."""


@dataclass(frozen=True)
class Calibrated(Generic[F]):
    """A fitted estimator with its calibration and its incumbent.

    `mean_success` `(M,)` is the mean score in the training rows.
    """

    estimator: F
    calibration: Calibration
    incumbent: Incumbent
    mean_success: FloatArray

    @classmethod
    def fit(
        cls, recipe: Estimator[F], train: Rows, validation: Rows, seed: int = 0, progress: Steps | None = None
    ) -> Calibrated[F]:
        """Fit on the training rows; calibrate, and prove the margin over the incumbent, on the validation rows.

        The incumbent is the model with the best mean score in the training rows (`best_single`).
        """
        fitted = recipe.fit(*train, validation, seed, progress)
        mean_success = mean_known(train[1].scores)
        n_models = len(mean_success)
        best = best_single(mean_success, mean_known(train[1].cost_usd))
        incumbent = Incumbent(best, np.where(np.arange(n_models) == best, 0.0, 1.0))  # nothing is proven yet
        return cls(fitted, Calibration.identity(n_models), incumbent, mean_success).recalibrated(*validation)

    def recalibrated(self, features: Features, table: OutcomesTable) -> Calibrated[F]:
        """Calibration and margins anew from these rows, which must not have been trained on.

        The incumbent keeps its place against equals; a model that was added later and has the better mean score
        takes it. What the rows say nothing of stays: the calibration of a model without a score, and the incumbent with
        its margins where too few rows know more than one model's score.
        """
        raw = self.estimator.predict(features).success
        known: BoolArray = np.isfinite(table.scores)
        calibration = Calibration.fit(raw, table.scores).where(known.sum(axis=0) > 0, self.calibration)
        if (known.sum(axis=1) > 1).sum() < FEWEST_SWITCHES:
            return replace(self, calibration=calibration)
        incumbent = Incumbent.fit(calibration.apply(raw), table.scores, self._best())
        return replace(self, calibration=calibration, incumbent=incumbent)

    def with_new_models(
        self, grown: F, features: Features, table: OutcomesTable, mean_success: FloatArray
    ) -> Calibrated[F]:
        """With the estimator that knows more models behind the present ones.

        The rows, of the new models alone, calibrate their columns; `mean_success` is theirs.
        """
        raw = grown.predict(features).success[:, len(self.mean_success) :]
        return Calibrated(
            grown,
            self.calibration.join(Calibration.fit(raw, table.scores)),
            self.incumbent.with_new_models(len(mean_success)),
            np.concatenate([self.mean_success, mean_success]),
        )

    def predict(self, features: Features) -> Prediction:
        """Calibrated outcomes of N requests, the incumbent's success lifted over unproven claims."""
        return self.finish(self.estimator.predict(features))

    def finish(self, raw: Prediction) -> Prediction:
        """What `predict` makes of the estimator's own prediction."""
        return self.incumbent.apply(_calibrated(raw, self.calibration))

    def reference(self, features: Features) -> Reference:
        """How success is predicted for these requests, the incumbent's not lifted."""
        predicted = self.predict(features)
        lifted = predicted.calibrated_success
        return Reference.of(predicted.success if lifted is None else lifted)

    def report(self, features: Features, table: OutcomesTable, split: str) -> CalibrationRecord:
        """How well calibrated the raw estimates and what is predicted are on these rows."""
        raw = self.estimator.predict(features)
        predicted = self.finish(raw)
        return CalibrationRecord(
            split=split,
            rows=len(table),
            ece_before=expected_calibration_error(raw.success, table.scores),
            ece_after=expected_calibration_error(predicted.success, table.scores),
            brier_before=brier_score(raw.success, table.scores),
            brier_after=brier_score(predicted.success, table.scores),
        )

    def _best(self) -> int:
        best = self.mean_success >= self.mean_success.max()
        return self.incumbent.model if best[self.incumbent.model] else int(best.argmax())


def select(stored: Calibrated[StorableEstimator], models: list[str]) -> Calibrated[StorableEstimator]:
    """These of its models, in this order."""
    columns = [stored.estimator.models.index(model) for model in models]
    return Calibrated(
        stored.estimator.select(models),
        stored.calibration.select(columns),
        stored.incumbent.select(columns),
        stored.mean_success[columns],
    )


def best_single(mean_score: FloatArray, mean_cost_usd: FloatArray) -> int:
    """The model with the best mean score `(M,)`, the cheaper one of equals, the first where costs are unknown too."""
    return int(np.lexsort((mean_cost_usd, -mean_score))[0])


def mean_known(values: FloatArray) -> FloatArray:
    """(M,) mean of the known entries of every column of `(N, M)`; NaN for a column without any."""
    count = (~np.isnan(values)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(count > 0, np.nansum(values, axis=0) / count, np.nan))


def _calibrated(prediction: Prediction, calibration: Calibration) -> Prediction:
    """The prediction with its success, and every member's, calibrated."""
    samples = calibration.apply(prediction.success_samples)
    return replace(
        prediction,
        success=calibration.apply(prediction.success),
        success_samples=samples,
        success_std=samples.std(axis=0),
    )
