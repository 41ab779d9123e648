"""Training a predictor from an outcomes table, calibrating it anew, and adding models to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.artefact import CalibrationRecord
from apportion.router.prediction.calibration import Calibration, brier_score, expected_calibration_error
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.features import Features
from apportion.router.prediction.head import Head
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.incumbent import Incumbent
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.predictor import Predictor, calibrated
from apportion.router.prediction.stored import StoredEstimator

Progress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps at most)."""

ENCODING_STEP = 512
_FEWEST_ROWS = 10


def train_predictor(
    table: OutcomesTable,
    encoder: Encoder,
    *,
    estimator: HeadEstimator | KnnEstimator | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    progress: Progress | None = None,
) -> Predictor:
    """Train on the first share of the rows, calibrate on the second, report on the third (unless it has no
    scores).

    The head is the estimator unless another is given. Unknown output lengths are derived where costs and
    prices allow (`OutcomesTable.with_counted_tokens`, counted with the encoder's tokenizer). Raises
    OutcomesTableError when there are too few rows to split, a model has no outcomes to learn from, or there
    are none to calibrate with.
    """
    table = complete_tokens(table, encoder)
    rows = _split_rows(len(table), seed, fractions)
    table.subset(rows[0]).require_scores()
    _require_calibration_scores(table.subset(rows[1]))
    features = encode_in_steps(table.prompts, encoder, progress)
    train, validation, test = ((features.subset(part), table.subset(part)) for part in rows)
    recipe = estimator or HeadEstimator()
    if isinstance(recipe, HeadEstimator):
        fitted: StoredEstimator = recipe.fit(*train, validation, seed, _stage(progress, "train"))
    else:
        fitted = recipe.fit(*train, validation, seed)
    mean_success = np.nanmean(train[1].scores, axis=0)
    predictor = Predictor(
        encoder=encoder,
        estimator=fitted,
        calibration=Calibration.identity(len(table.models)),
        incumbent=Incumbent(int(mean_success.argmax()), np.zeros(len(table.models))),
        mean_success=mean_success,
        prices=table.prices,
        data_hashes=(table.data_hash(),),
        reports=(),
    )
    predictor = _calibrate(predictor, *validation)
    return _report(predictor, *test, "test") if np.isfinite(test[1].scores).any() else predictor


def recalibrate(predictor: Predictor, table: OutcomesTable, progress: Progress | None = None) -> Predictor:
    """The predictor calibrated anew on all rows of `table`, which must hold its models (others are left
    out).

    Raises OutcomesTableError when it lacks a model, or has not a single score of them.
    """
    table = table.select_models(predictor.models)
    _require_calibration_scores(table)
    features = encode_in_steps(table.prompts, predictor.encoder, progress)
    fresh = replace(predictor, data_hashes=(*predictor.data_hashes, table.data_hash()), reports=())
    return _calibrate(fresh, features, table)


def add_models(
    predictor: Predictor,
    table: OutcomesTable,
    *,
    seed: int = 0,
    recipe: HeadEstimator | None = None,
    progress: Progress | None = None,
) -> Predictor:
    """The predictor with columns for the models of `table` that it does not know; the others' stay to the
    bit.

    A tenth of the rows calibrates the new columns. Raises OutcomesTableError when there is nothing new, there
    are too few rows, or a new model has no outcomes to learn from.
    """
    new = [model for model in table.models if model not in predictor.models]
    if not new:
        raise OutcomesTableError(f"The table's models {list(table.models)} are all known: nothing to add.")
    table = complete_tokens(table.select_models(new), predictor.encoder)
    table = table.subset(~np.isnan(table.scores).all(axis=1))
    rows, held_out, _ = _split_rows(len(table), seed, (0.9, 0.1, 0.0))
    table.subset(rows).require_scores()
    features = encode_in_steps(table.prompts, predictor.encoder, progress)
    train = (features.subset(rows), table.subset(rows))
    validation = (features.subset(held_out), table.subset(held_out))
    grown: StoredEstimator
    if isinstance(predictor.estimator, Head):
        grown = (recipe or HeadEstimator()).add_models(
            predictor.estimator, *train, validation, seed, _stage(progress, "train")
        )
    else:
        grown = predictor.estimator.add(*train)
    raw = grown.predict(validation[0]).success[:, len(predictor.models) :]
    return replace(
        predictor,
        estimator=grown,
        calibration=predictor.calibration.join(Calibration.fit(raw, validation[1].scores)),
        incumbent=predictor.incumbent.with_new_models(len(new)),
        mean_success=np.concatenate([predictor.mean_success, np.nanmean(train[1].scores, axis=0)]),
        prices={**predictor.prices, **table.prices},
        data_hashes=(*predictor.data_hashes, table.data_hash()),
    )


def complete_tokens(table: OutcomesTable, encoder: Encoder) -> OutcomesTable:
    """The table with unknown token counts and costs of the models with a price filled in as far as they follow
    from one another (`OutcomesTable.with_counted_tokens`).
    """
    priced = [model for model in table.models if model in table.prices]
    columns = [table.models.index(model) for model in priced]
    if not np.isnan([table.output_tokens[:, columns], table.cost_usd[:, columns]]).any():
        return table
    known = table.select_models(priced).with_counted_tokens(encoder.count_tokens(table.prompts))
    filled = {name: getattr(table, name).copy() for name in ("input_tokens", "output_tokens", "cost_usd")}
    for name, values in filled.items():
        values[:, columns] = getattr(known, name)
    return replace(table, **filled)


def encode_in_steps(texts: list[str], encoder: Encoder, progress: Progress | None = None) -> Features:
    """Features of many texts, reporting progress on the way."""
    tell = _stage(progress, "encode")
    parts = []
    for start in range(0, len(texts), ENCODING_STEP):
        parts.append(Features.of(texts[start : start + ENCODING_STEP], encoder))
        if tell is not None:
            tell(min(start + ENCODING_STEP, len(texts)), len(texts))
    return Features(np.vstack([p.embeddings for p in parts]), np.vstack([p.text for p in parts]))


def _calibrate(predictor: Predictor, features: Features, table: OutcomesTable) -> Predictor:
    raw = predictor.estimator.predict(features).success
    calibration = Calibration.fit(raw, table.scores)
    incumbent = Incumbent.fit(calibration.apply(raw), table.scores, int(predictor.mean_success.argmax()))
    fitted = replace(predictor, calibration=calibration, incumbent=incumbent)
    return _report(fitted, features, table, "calibration")


def _report(predictor: Predictor, features: Features, table: OutcomesTable, split: str) -> Predictor:
    raw = predictor.estimator.predict(features)
    returned = predictor.incumbent.apply(calibrated(raw, predictor.calibration))
    record = CalibrationRecord(
        split=split,
        rows=len(table),
        ece_before=expected_calibration_error(raw.success, table.scores),
        ece_after=expected_calibration_error(returned.success, table.scores),
        brier_before=brier_score(raw.success, table.scores),
        brier_after=brier_score(returned.success, table.scores),
    )
    return replace(predictor, reports=(*predictor.reports, record))


def _split_rows(
    rows: int, seed: int, fractions: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(rows)
    train, validation, test = np.split(order, np.round(np.cumsum(fractions)[:2] * rows).astype(int))
    if len(train) < _FEWEST_ROWS or len(validation) < _FEWEST_ROWS:
        raise OutcomesTableError(
            f"{rows} rows split into {len(train)} to train and {len(validation)} to calibrate, but each needs "
            f"{_FEWEST_ROWS}: add rows."
        )
    return train, validation, test


def _require_calibration_scores(table: OutcomesTable) -> None:
    if np.isnan(table.scores).all():
        raise OutcomesTableError(f"None of the {len(table)} rows to calibrate with has a score: add outcomes.")


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None

    def tell(done: int, total: int) -> None:
        progress(stage, done, total)

    return tell
