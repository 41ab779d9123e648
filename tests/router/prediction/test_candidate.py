"""A candidate takes a predictor's place only where that is certainly no loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.candidate import FEWEST, candidate, compare
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.training import recalibrate, train_predictor
from tests.samples import MODELS, make_outcomes


@pytest.fixture(scope="module")
def predictor(outcomes: OutcomesTable, encoder: Encoder) -> Predictor:
    return train_predictor(outcomes, encoder, estimator=HeadEstimator(members=2, hidden=16, max_epochs=20))


def judged(n: int, seed: int, models: tuple[str, ...] = MODELS, *, luck: float = 1.0) -> OutcomesTable:
    """Answers as a service judges them: one model's each; of good ones only this share is good any more."""
    table = make_outcomes(n, seed).select_models(models)
    random = np.random.default_rng(1000 + seed)  # not the draws that the prompts were made of
    chosen = np.arange(len(models)) == random.integers(len(models), size=n)[:, None]
    scores = table.scores * (random.random(table.scores.shape) < luck)
    return replace(table, scores=np.where(chosen, scores, np.nan))


def test_where_models_have_become_worse_the_candidate_is_admitted(predictor: Predictor) -> None:
    found, comparison = candidate(predictor, judged(1500, 1, luck=0.6), 0.2)

    assert comparison.admitted
    assert comparison.answers == 300
    assert comparison.brier_after < comparison.brier_before - 0.02
    fresh = make_outcomes(300, 9)
    predicted = found.predict(fresh.prompts).calibrated_success
    assert predicted is not None
    assert predicted.mean() == pytest.approx(0.6 * fresh.scores.mean(), abs=0.06)


def test_where_they_become_good_again_it_is_not(predictor: Predictor) -> None:
    older, newest = judged(1200, 1, luck=0.5), judged(300, 2)
    queries = newest.queries.assign(query_id=[f"new{i}" for i in range(300)])
    both = OutcomesTable(
        queries=pd.concat([older.queries, queries], ignore_index=True),
        models=MODELS,
        prices=older.prices,
        **{
            name: np.concatenate([getattr(older, name), getattr(newest, name)])
            for name in ("scores", "input_tokens", "output_tokens", "cost_usd")
        },
    )
    assert not candidate(predictor, both, 0.2)[1].admitted


def test_a_candidate_that_is_only_luckier_is_not_admitted() -> None:
    random, admitted = np.random.default_rng(0), 0
    for _ in range(400):
        success = random.uniform(0.2, 0.8, (300, 1))
        scores = (random.random((300, 1)) < success).astype(float)
        noise = random.normal(0, 0.1, (300, 1))
        admitted += compare(success + noise, success - noise, scores).admitted  # equally wrong
    assert admitted <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_what_records_say_nothing_of_stays(predictor: Predictor) -> None:
    table = judged(1200, 1, ("small", "large"), luck=0.5)
    few = replace(table, scores=np.where(np.arange(1200)[:, None] < 90, table.scores, table.scores * [1.0, np.nan]))
    found, _ = candidate(predictor, few, 0.2)
    old, new = predictor.calibrated, found.calibrated

    assert new.incumbent is old.incumbent  # no row knows two models
    for name in ("temperatures", "bucket_estimates", "bucket_values"):
        before, after = getattr(old.calibration, name), getattr(new.calibration, name)
        np.testing.assert_array_equal(before[1:], after[1:])  # medium has no score, large has few
        assert (before[0] != after[0]).any()


def test_a_model_without_scores_keeps_its_calibration(predictor: Predictor, outcomes: OutcomesTable) -> None:
    scores = np.where([True, True, False], outcomes.scores, np.nan)
    found = recalibrate(predictor, replace(outcomes, scores=scores))

    old, new = predictor.calibrated.calibration, found.calibrated.calibration
    np.testing.assert_array_equal(old.bucket_values[2], new.bucket_values[2])
    assert old.temperatures[2] == new.temperatures[2]


def test_too_few_answers_are_told(predictor: Predictor) -> None:
    with pytest.raises(OutcomesTableError, match=f"there must be {FEWEST} new ones"):
        candidate(predictor, judged(400, 1), 0.2)
