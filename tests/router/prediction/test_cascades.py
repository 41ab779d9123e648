"""Cascades that training proves: kept with the artefact, told, and left alone by what knows nothing of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.features import Features
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.training import add_models, recalibrate, train_predictor
from tests.samples import make_outcomes, with_signals

FRACTIONS = (0.4, 0.4, 0.2)


@pytest.fixture(scope="module")
def table() -> OutcomesTable:
    return with_signals(make_outcomes(1_600, seed=1), apart=3.5)


@pytest.fixture(scope="module")
def predictor(encoder: Encoder, table: OutcomesTable) -> Predictor:
    return train_predictor(table, encoder, estimator=KnnEstimator(k=20), fractions=FRACTIONS)


def test_an_artefact_keeps_proved_pairs(predictor: Predictor, table: OutcomesTable, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path, device="cpu")

    assert predictor.cascades
    assert loaded.gate is not None
    assert predictor.gate is not None
    assert loaded.gate.trials == predictor.gate.trials
    prior, signals = np.linspace(0.05, 0.95, 50), table.signals[:50, 0]
    for before, after in zip(predictor.cascades, loaded.cascades, strict=True):
        assert (after.first, after.second) == (before.first, before.second)
        np.testing.assert_array_equal(after.posterior(prior, signals), before.posterior(prior, signals))
        np.testing.assert_array_equal(after.second_given(prior, prior), before.second_given(prior, prior))
        np.testing.assert_array_equal(after.verifier.passing(prior, prior), before.verifier.passing(prior, prior))


def test_pairs_of_other_models_stay_behind(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    first = predictor.cascades[0]
    other = next(model for model in predictor.models if model not in (first.first, first.second))

    alone = Predictor.load(tmp_path, device="cpu", models=[other])
    both = Predictor.load(tmp_path, device="cpu", models=[first.second, first.first])

    assert alone.cascades == ()
    assert [(pair.first, pair.second) for pair in both.cascades] == [(first.first, first.second)]


def test_an_artefact_of_before_has_none(encoder: Encoder, outcomes: OutcomesTable, tmp_path: Path) -> None:
    train_predictor(outcomes, encoder, estimator=KnnEstimator()).save(tmp_path)
    described = json.loads((tmp_path / "artefact.json").read_text())
    del described["cascades"]
    (tmp_path / "artefact.json").write_text(json.dumps(described | {"version": 4}))

    loaded = Predictor.load(tmp_path, device="cpu")

    assert (loaded.gate, loaded.cascades) == (None, ())


def test_calibrating_anew_keeps_pairs_unless_the_rows_have_signals(predictor: Predictor, table: OutcomesTable) -> None:
    fresh = make_outcomes(400, seed=5)

    assert recalibrate(predictor, fresh).cascades == predictor.cascades
    nothing = recalibrate(predictor, with_signals(fresh, apart=0.0))
    assert nothing.cascades == ()
    assert nothing.gate is not None
    assert all("not offered" in sentence for sentence in nothing.gate.sentences)


def test_added_models_leave_the_pairs(encoder: Encoder, table: OutcomesTable) -> None:
    known = train_predictor(
        table.select_models(["small", "large"]), encoder, estimator=KnnEstimator(k=20), fractions=FRACTIONS
    )

    grown = add_models(known, table)

    assert known.cascades
    assert grown.cascades == known.cascades


def test_the_second_answer_is_asked_where_the_first_is_likely_wrong(predictor: Predictor) -> None:
    fresh = with_signals(make_outcomes(1_000, seed=9), apart=3.5, seed=9)
    pair = predictor.cascades[0]
    first = predictor.models.index(pair.first)
    expected = predictor.predict_features(Features.of(fresh.prompts, predictor.encoder))

    assert fresh.signals is not None
    sure = pair.posterior(expected.success[:, first], fresh.signals[:, first])

    asked = sure < 0.5
    assert fresh.scores[asked, first].mean() < 0.2 < 0.8 < fresh.scores[~asked, first].mean()
