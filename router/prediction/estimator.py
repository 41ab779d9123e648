"""The interface of everything that estimates outcomes from features: head, neighbours, baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:
    from apportion.router.outcomes.table import OutcomesTable
    from apportion.router.prediction.artefact import Arrays
    from apportion.router.prediction.features import Features
    from apportion.router.prediction.prediction import Prediction

Steps = Callable[[int, int], None]
"""Called with (steps done, steps at most) while something long is fitted."""


class FittedEstimator(Protocol):
    """Knows `models` and predicts their outcomes."""

    @property
    def models(self) -> tuple[str, ...]:
        """Models, in the order of the columns of every prediction."""
        ...

    def predict(self, features: Features) -> Prediction:
        """Outcomes of N requests."""
        ...


class StorableEstimator(FittedEstimator, Protocol):
    """A fitted estimator that an artefact can hold; `kind` is its name there and in the registry."""

    kind: ClassVar[str]

    def select(self, models: Sequence[str]) -> StorableEstimator:
        """These of its models, in this order."""
        ...

    def arrays(self) -> Arrays:
        """What it has learned, for `restore`."""
        ...

    def settings(self) -> dict[str, int | float]:
        """Its numbers beside the arrays, for `restore`."""
        ...

    @classmethod
    def restore(
        cls, models: tuple[str, ...], arrays: Arrays, settings: dict[str, int | float], device: str
    ) -> StorableEstimator:
        """The estimator that had these arrays and settings; raises KeyError or TypeError where some are missing."""
        ...


Fitted = TypeVar("Fitted", bound=FittedEstimator, covariant=True)


class Estimator(Protocol[Fitted]):
    """A recipe that is fitted to an outcomes table."""

    def fit(
        self,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> Fitted:
        """Fit to the rows of `table`, whose features are given in the same order; unknown outcomes are left
        out.

        `validation` holds other rows, for early stopping and the choice of settings.
        """
        ...


class GrowingEstimator(Estimator[StorableEstimator], Protocol):
    """A recipe that can add models to what it has fitted before."""

    def add_models(
        self,
        fitted: Any,
        /,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> StorableEstimator:
        """`fitted` with columns for the models of `table`; the others' stay to the bit."""
        ...
