"""Training a predictor from an outcomes table, calibrating it anew, and adding models to it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.errors import ConfigurationError, OutcomesTableError
from apportion.router.outcomes.table import FRACTIONS, OutcomesTable
from apportion.router.prediction.calibrated import Calibrated, Rows, mean_known
from apportion.router.prediction.cascading import proved
from apportion.router.prediction.estimator import Estimator, GrowingEstimator, StorableEstimator
from apportion.router.prediction.estimators import storable
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.preparation import Progress, complete_tokens, encode_in_steps, of_stage
from apportion.router.prediction.text_encoder import TextEncoder

_FEWEST_ROWS = 10


def train_predictor(
    table: OutcomesTable,
    encoder: TextEncoder,
    *,
    estimator: Estimator[StorableEstimator] | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predictor:
    """Train on the first share of the rows, calibrate on the second, report on the third (unless it has no
    scores).

    The head is the estimator unless another is given. Unknown output lengths are derived where costs and
    prices allow (`OutcomesTable.with_counted_tokens`, counted with the encoder's tokenizer). Raises
    OutcomesTableError when there are too few rows to split, a model has no outcomes to learn from, or there
    are none to calibrate with.

    Where the table has signals of how sure models were of their answers, the calibration rows also say which cascades
    are worth it.
    """
    table = complete_tokens(table, encoder)
    rows = _split(table, seed, fractions)
    table.subset(rows[0]).require_scores()
    _require_calibration_scores(table.subset(rows[1]))
    both = encode_in_steps(table, encoder, progress), table
    train, validation, test = (_part(both, part) for part in rows)
    fitted = Calibrated.fit(estimator or storable("head"), train, validation, seed, of_stage(progress, "train"))
    reports = [fitted.report(*validation, "calibration")]
    if np.isfinite(test[1].scores).any():
        reports.append(fitted.report(*test, "test"))
    return Predictor(
        encoder=encoder,
        calibrated=fitted,
        prices=table.prices,
        data_hashes=(table.data_hash(),),
        reports=tuple(reports),
        reference=fitted.reference(validation[0]),
        gate=proved(fitted, *validation, train[1], seed),
    )


def recalibrate(predictor: Predictor, table: OutcomesTable, progress: Progress | None = None) -> Predictor:
    """The predictor calibrated anew on all rows of `table`, which must hold its models (others are left
    out).

    Raises OutcomesTableError when it lacks a model, or has not a single score of them.
    """
    table = table.select_models(predictor.models)
    _require_calibration_scores(table)
    features = encode_in_steps(table, predictor.encoder, progress)
    fitted = predictor.calibrated.recalibrated(features, table)
    gate = proved(fitted, features, table, table)
    return replace(
        predictor,
        calibrated=fitted,
        gate=predictor.gate if gate is None or gate.closed else gate,
        data_hashes=(*predictor.data_hashes, table.data_hash()),
        reports=(fitted.report(features, table, "calibration"),),
        reference=fitted.reference(features),
    )


def check_fresh(predictor: Predictor, table: OutcomesTable) -> None:
    """Raises OutcomesTableError where a calibration on `table` would be worth nothing: too few rows, or the very ones
    that the predictor was made of.
    """
    if len(table) < _FEWEST_ROWS:
        raise OutcomesTableError(f"rows: {len(table)} to calibrate with, {_FEWEST_ROWS} are needed; add outcomes")
    if {table.data_hash(), complete_tokens(table, predictor.encoder).data_hash()} & set(predictor.data_hashes):
        raise OutcomesTableError(
            "data: the artefact was made of these outcomes, on which it looks better than it is; give others"
        )


def add_models(
    predictor: Predictor,
    table: OutcomesTable,
    *,
    seed: int = 0,
    recipe: GrowingEstimator | None = None,
    progress: Progress | None = None,
) -> Predictor:
    """The predictor with columns for the models of `table` that it does not know; the others' stay to the
    bit.

    A tenth of the rows calibrates the new columns. Raises OutcomesTableError when there is nothing new, there
    are too few rows, or a new model has no outcomes to learn from, and ConfigurationError when `recipe` is of
    another estimator than the predictor's.
    """
    new = [model for model in table.models if model not in predictor.models]
    if not new:
        raise OutcomesTableError(
            f"models {list(table.models)}: the artefact knows them all, so there is nothing to add"
        )
    table = complete_tokens(table.select_models(new), predictor.encoder)
    table = table.subset(~np.isnan(table.scores).all(axis=1))
    rows, held_out, _ = _split(table, seed, (0.9, 0.1, 0.0))
    table.subset(rows).require_scores()
    both = encode_in_steps(table, predictor.encoder, progress), table
    train, validation = _part(both, rows), _part(both, held_out)
    known = predictor.calibrated
    grown = _growing(recipe, known.estimator.kind).add_models(
        known.estimator, *train, validation, seed, of_stage(progress, "train")
    )
    calibrated = known.with_new_models(grown, *validation, mean_known(train[1].scores))
    columns = range(len(predictor.models), len(calibrated.mean_success))
    added = calibrated.reference(validation[0]).select(columns)
    return replace(
        predictor,
        calibrated=calibrated,
        reference=None if predictor.reference is None else predictor.reference.join(added),
        prices={**predictor.prices, **table.prices},
        data_hashes=(*predictor.data_hashes, table.data_hash()),
    )


def _growing(recipe: GrowingEstimator | None, kind: str) -> GrowingEstimator:
    default = storable(kind)
    if recipe is not None and type(recipe) is not type(default):
        raise ConfigurationError(
            f"recipe {type(recipe).__name__}: the artefact's estimator is {kind}, give a {type(default).__name__}"
        )
    return recipe or default


def _part(both: Rows, rows: IntArray) -> Rows:
    return both[0].subset(rows), both[1].subset(rows)


def _split(
    table: OutcomesTable, seed: int, fractions: tuple[float, float, float]
) -> tuple[IntArray, IntArray, IntArray]:
    train, validation, test = table.split_rows(seed, fractions)
    if len(train) < _FEWEST_ROWS or len(validation) < _FEWEST_ROWS:
        needed = math.ceil(_FEWEST_ROWS / min(fractions[:2]))
        raise OutcomesTableError(
            f"rows: {len(table)} split into {len(train)} to train and {len(validation)} to calibrate, but each needs "
            f"{_FEWEST_ROWS}, and rows of one prompt or group stay together: add rows, to {needed} or more"
        )
    return train, validation, test


def _require_calibration_scores(table: OutcomesTable) -> None:
    if np.isnan(table.scores).all():
        raise OutcomesTableError(f"scores: none of the {len(table)} rows to calibrate with has one, add outcomes")
