"""A predictor calibrated anew on what came in, and whether it is to take the place of the old one.

It is calibrated on the older answers and compared on the newest, which neither has seen. It is admitted only where its
Brier score there is not worse, which has to be certain: the one-sided 95 % bound of the mean difference is not above 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.preparation import Progress
from apportion.router.prediction.training import recalibrate

ONE_SIDED_95 = 1.645
FEWEST = 100  # judged answers: of a model to calibrate it anew, and of all to compare on


@dataclass(frozen=True)
class Comparison:
    """Both on the same `answers`: their Brier scores, and the upper 95 % bound of the new one's minus the old one's."""

    answers: int
    brier_before: float
    brier_after: float
    difference_at_most: float

    @property
    def admitted(self) -> bool:
        """Whether the new one is not worse for certain."""
        return self.difference_at_most <= 0


def candidate(
    predictor: Predictor, table: OutcomesTable, test_share: float, progress: Progress | None = None
) -> tuple[Predictor, Comparison]:
    """The predictor calibrated on the older rows, and how it compares with itself as it was on the newest.

    A model with few judged answers keeps its calibration.

    Args:
        table: rows in the order of time; its models may be some of the predictor's.
        test_share: of the rows, the newest, to compare on.

    Raises:
        OutcomesTableError: there are too few rows for either.
    """
    table = _of_models(table, predictor.models)
    first_new = round(len(table) * (1 - test_share))
    old, new = table.subset(np.arange(first_new)), table.subset(np.arange(first_new, len(table)))
    seen = np.isfinite(old.scores).sum(axis=0)
    if not (seen >= FEWEST).any() or np.isfinite(new.scores).sum() < FEWEST:
        raise OutcomesTableError(
            f"records: {len(old)} older judged answers ({', '.join(map(str, seen.tolist()))} by model) and {len(new)} "
            f"new ones; some model needs {FEWEST} older ones, and there must be {FEWEST} new ones; wait for more"
        )
    found = recalibrate(predictor, replace(old, scores=np.where(seen >= FEWEST, old.scores, np.nan)), progress)
    features = Features.of(new.prompts, predictor.encoder, new.traits)
    return found, compare(_success(predictor, features), _success(found, features), new.scores)


def compare(before: FloatArray, after: FloatArray, scores: FloatArray) -> Comparison:
    """Two predictions (N, M) of the same answers, where their scores are known."""
    known = np.isfinite(scores)
    old, new = ((success[known] - scores[known]) ** 2 for success in (before, after))
    worse = new - old
    error = worse.std(ddof=1) / np.sqrt(len(worse))
    return Comparison(len(worse), float(old.mean()), float(new.mean()), float(worse.mean() + ONE_SIDED_95 * error))


def _success(predictor: Predictor, features: Features) -> FloatArray:
    """Calibrated success, the incumbent's not lifted."""
    predicted = predictor.predict_features(features)
    return predicted.success if predicted.calibrated_success is None else predicted.calibrated_success


def _of_models(table: OutcomesTable, models: tuple[str, ...]) -> OutcomesTable:
    """With a column for each of the models, unknown where the table has none."""
    known = [model for model in models if model in table.models]
    chosen = table.select_models(known)
    columns = [models.index(model) for model in known]

    def wide(values: FloatArray) -> FloatArray:
        found = np.full((len(table), len(models)), np.nan)
        found[:, columns] = values
        return found

    return replace(
        chosen,
        models=models,
        scores=wide(chosen.scores),
        input_tokens=wide(chosen.input_tokens),
        output_tokens=wide(chosen.output_tokens),
        cost_usd=wide(chosen.cost_usd),
    )
