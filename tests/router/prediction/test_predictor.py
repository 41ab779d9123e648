from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from apportion.router.calibration import brier_score, expected_calibration_error
from apportion.router.errors import ArtefactError, ConfigurationError, OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.preparation import encode_in_steps
from apportion.router.prediction.training import add_models, recalibrate, train_predictor
from tests.samples import make_outcomes, save_encoder

QUICK = HeadEstimator(members=3, hidden=16, max_epochs=25)
TEXTS = ["What is 12 plus 7?", "What is 123456 plus 7?", "Spell the word abcdef backwards."]


@pytest.fixture(scope="module")
def predictor(encoder: Encoder, outcomes: OutcomesTable) -> Predictor:
    return train_predictor(outcomes, encoder, estimator=QUICK)


@pytest.fixture
def artefact(predictor: Predictor, tmp_path: Path) -> Path:
    predictor.save(tmp_path / "artefact")
    return tmp_path / "artefact"


def _assert_predict_the_same(one: Predictor, other: Predictor) -> None:
    texts = make_outcomes(200, seed=3).prompts
    before, after = one.predict(texts), other.predict(texts)
    for field in dataclasses.fields(before):
        np.testing.assert_array_equal(getattr(after, field.name), getattr(before, field.name))


def test_neighbours_predict_what_was_saved(encoder: Encoder, outcomes: OutcomesTable, tmp_path: Path) -> None:
    predictor = train_predictor(outcomes, encoder, estimator=KnnEstimator(k=10, members=4))
    predictor.save(tmp_path)
    _assert_predict_the_same(predictor, Predictor.load(tmp_path, device="cpu"))


def test_an_artefact_predicts_what_was_saved(predictor: Predictor, artefact: Path) -> None:
    loaded = Predictor.load(artefact, device="cpu")
    _assert_predict_the_same(predictor, loaded)
    assert loaded.models == predictor.models
    assert loaded.prices == dict(predictor.prices)
    assert loaded.reports == predictor.reports
    assert loaded.calibrated.incumbent.model == predictor.models.index("large")
    np.testing.assert_array_equal(loaded.calibrated.incumbent.margins, predictor.calibrated.incumbent.margins)
    assert loaded.data_hashes == predictor.data_hashes
    np.testing.assert_array_equal(loaded.mean_success, predictor.mean_success)


def test_easier_questions_are_likelier_to_succeed_and_larger_models_better(predictor: Predictor) -> None:
    success = predictor.predict(TEXTS).success
    assert (success[0] > success[1])[:2].all()
    assert (np.diff(success[1]) > 0).all()


def test_no_model_passes_the_best_single_one_by_a_claim_that_held_out_rows_do_not_prove(predictor: Predictor) -> None:
    """Here the largest model is the best for every request, so there is nothing to prove."""
    texts = make_outcomes(100, seed=3).prompts
    assert predictor.calibrated.incumbent.margins.tolist() == [1.0, 1.0, 0.0]
    assert (predictor.predict(texts).success.argmax(axis=1) == 2).all()


def test_the_report_tells_calibration_on_rows_not_trained_on(predictor: Predictor, outcomes: OutcomesTable) -> None:
    _, calibration, test = outcomes.split_rows(0)
    told = [(report.split, report.rows) for report in predictor.reports]
    assert told == [("calibration", len(calibration)), ("test", len(test))]
    assert all(report.brier_after < 0.2 for report in predictor.reports)


def test_the_report_is_about_what_is_predicted(encoder: Encoder, outcomes: OutcomesTable) -> None:
    """The lift of the incumbent included, which few neighbours with their noisy claims often bring about."""
    predictor = train_predictor(outcomes, encoder, estimator=KnnEstimator(k=3, members=2))
    _, _, rows = outcomes.split_rows(0)
    features, scores = encode_in_steps(outcomes, encoder).subset(rows), outcomes.scores[rows]
    predicted = predictor.predict_features(features).success
    assert predictor.reports[1].brier_after == pytest.approx(brier_score(predicted, scores))
    assert predictor.reports[1].ece_after == pytest.approx(expected_calibration_error(predicted, scores))


def test_models_are_checked_and_put_in_the_order_configured(predictor: Predictor, artefact: Path) -> None:
    turned = Predictor.load(artefact, models=["large", "small", "medium"], device="cpu")
    np.testing.assert_array_equal(turned.predict(TEXTS).success, predictor.predict(TEXTS).success[:, [2, 0, 1]])
    np.testing.assert_array_equal(turned.mean_success, predictor.mean_success[[2, 0, 1]])
    some = Predictor.load(artefact, models=["large", "small"], device="cpu")
    np.testing.assert_array_equal(some.mean_success, predictor.mean_success[[2, 0]])
    with pytest.raises(ArtefactError, match="predicts small, medium, large, and it knows nothing of huge"):
        Predictor.load(artefact, models=["small", "medium", "huge"])
    with pytest.raises(ArtefactError, match="none of its models is asked for"):
        Predictor.load(artefact, models=[])


def test_another_encoder_is_refused(artefact: Path, tmp_path: Path, encoder_folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ArtefactError, match="load that encoder, or train with this one"):
        Predictor.load(artefact, encoder=str(save_encoder(other, seed=1)), device="cpu")
    short = Encoder.load(str(encoder_folder), device="cpu", max_tokens=16)
    with pytest.raises(ArtefactError, match="load it with max_tokens=64"):
        Predictor.load(artefact, encoder=short)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "artefact.json").unlink(), r"has no artefact\.json"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "damaged"),
        (lambda folder: _edit(folder, version=99), "version 99"),
        (lambda folder: _edit(folder, unheard_of=1), "damaged or of another version"),
        (lambda folder: _edit(folder, estimator="oracle"), "estimator 'oracle' in the artefact is unknown"),
        (lambda folder: _edit(folder, incumbent="oracle"), "incumbent 'oracle': it is none of the artefact's models"),
    ],
)
def test_a_broken_artefact_says_what_is_wrong(artefact: Path, damage, said: str) -> None:
    damage(artefact)
    with pytest.raises(ArtefactError, match=said):
        Predictor.load(artefact, device="cpu")


def _edit(folder: Path, **changes: object) -> None:
    file = folder / "artefact.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("estimator", [QUICK, KnnEstimator(k=10, members=4)])
def test_a_new_model_leaves_the_others_to_the_bit(
    encoder: Encoder, outcomes: OutcomesTable, tmp_path: Path, estimator: HeadEstimator | KnnEstimator
) -> None:
    known = train_predictor(outcomes.select_models(["small", "medium"]), encoder, estimator=estimator)
    grown = add_models(known, make_outcomes(300, seed=9), recipe=estimator)
    grown.save(tmp_path)
    before, after = known.predict(TEXTS), Predictor.load(tmp_path, device="cpu").predict(TEXTS)
    assert grown.models == ("small", "medium", "large")
    np.testing.assert_array_equal(after.success[:, :2], before.success)
    np.testing.assert_array_equal(after.success_std[:, :2], before.success_std)
    np.testing.assert_array_equal(after.output_tokens[:, :2], before.output_tokens)
    assert set(grown.prices) == {"small", "medium", "large"}
    assert len(grown.mean_success) == 3
    with pytest.raises(OutcomesTableError, match="knows them all"):
        add_models(grown, outcomes)


def test_recalibration_follows_drift(predictor: Predictor) -> None:
    fresh = make_outcomes(400, seed=5)
    worse = dataclasses.replace(fresh, scores=fresh.scores * 0.5)
    again = recalibrate(predictor, worse)
    drifted = predictor.predict(worse.prompts).success.mean() - worse.scores.mean()
    mended = again.predict(worse.prompts).success.mean() - worse.scores.mean()
    assert drifted > 0.2 > 0.06 > abs(mended)
    assert again.calibrated.estimator is predictor.calibrated.estimator
    assert again.data_hashes[-1] == worse.data_hash()


def _without_scores(table: OutcomesTable, rows: object, models: slice = slice(None)) -> OutcomesTable:
    scores = table.scores.copy()
    scores[rows, models] = np.nan
    return dataclasses.replace(table, scores=scores)


def test_without_a_score_nothing_is_calibrated(
    predictor: Predictor, encoder: Encoder, outcomes: OutcomesTable, tmp_path: Path
) -> None:
    with pytest.raises(OutcomesTableError, match="none of the 600 rows to calibrate with has one"):
        recalibrate(predictor, _without_scores(outcomes, slice(None)))
    _, calibration, test = outcomes.split_rows(0)
    with pytest.raises(OutcomesTableError, match=f"none of the {len(calibration)} rows to calibrate with has one"):
        train_predictor(_without_scores(outcomes, calibration), encoder, estimator=KnnEstimator())
    untested = train_predictor(_without_scores(outcomes, test), encoder, estimator=KnnEstimator())
    untested.save(tmp_path)
    assert [report.split for report in Predictor.load(tmp_path, device="cpu").reports] == ["calibration"]


@pytest.mark.parametrize("estimator", [QUICK, KnnEstimator()])
def test_a_new_model_without_a_score_is_refused(
    encoder: Encoder, outcomes: OutcomesTable, estimator: HeadEstimator | KnnEstimator
) -> None:
    known = train_predictor(outcomes.select_models(["small"]), encoder, estimator=estimator)
    with pytest.raises(OutcomesTableError, match=r"no score of \['large'\]"):
        add_models(known, _without_scores(outcomes, slice(None), slice(2, 3)), recipe=estimator)


def test_a_recipe_of_another_estimator_adds_nothing(encoder: Encoder, outcomes: OutcomesTable) -> None:
    known = train_predictor(outcomes.select_models(["small"]), encoder, estimator=KnnEstimator())
    with pytest.raises(ConfigurationError, match="the artefact's estimator is knn, give a KnnEstimator"):
        add_models(known, outcomes, recipe=QUICK)


def test_too_few_rows_are_refused(encoder: Encoder, outcomes: OutcomesTable) -> None:
    with pytest.raises(OutcomesTableError, match=r"35 to train and 5 to calibrate.*add rows"):
        train_predictor(outcomes.subset(np.arange(50)), encoder)


def test_unknown_lengths_are_derived_from_costs_where_prices_are_known(
    encoder: Encoder, outcomes: OutcomesTable
) -> None:
    unknown = np.full(outcomes.scores.shape, np.nan)
    table = dataclasses.replace(outcomes, output_tokens=unknown, input_tokens=unknown)
    priced = train_predictor(table, encoder, estimator=KnnEstimator())
    assert np.isfinite(priced.predict(TEXTS).output_tokens).all()
    unpriced = train_predictor(dataclasses.replace(table, prices={}), encoder, estimator=KnnEstimator())
    assert np.isnan(unpriced.predict(TEXTS).output_tokens).all()
