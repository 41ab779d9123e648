"""The one interface of everything that estimates outcomes from features: head, neighbours, baselines."""

from __future__ import annotations

from typing import Protocol

from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.prediction import Prediction


class FittedEstimator(Protocol):
    """Knows `models` and predicts their outcomes."""

    @property
    def models(self) -> tuple[str, ...]:
        """Models, in the order of the columns of every prediction."""
        ...

    def predict(self, features: Features) -> Prediction:
        """Outcomes of N requests."""
        ...


class Estimator(Protocol):
    """A recipe that is fitted to an outcomes table."""

    def fit(
        self,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
    ) -> FittedEstimator:
        """Fit to the rows of `table`, whose features are given in the same order; unknown outcomes are left
        out.

        `validation` holds other rows, for early stopping and the choice of settings.
        """
        ...
