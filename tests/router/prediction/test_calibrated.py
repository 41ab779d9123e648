"""What `evaluate` measures is what `train` saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apportion.router.costs import expected_cost
from apportion.router.evaluation.case import fit_case
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.calibrated import Calibrated, best_single, mean_known
from apportion.router.prediction.encoder import Encoder
from apportion.router.prediction.estimator import GrowingEstimator
from apportion.router.prediction.features import Features
from apportion.router.prediction.head_training import HeadEstimator
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.predictor import Predictor
from apportion.router.prediction.preparation import encode_in_steps
from apportion.router.prediction.training import add_models, recalibrate, train_predictor


def _with_tied_best(table: OutcomesTable) -> OutcomesTable:
    """The first model answers as well as the best one and costs more, so only the rule for ties tells them apart."""
    scores, cost_usd = table.scores.copy(), table.cost_usd.copy()
    scores[:, 0] = scores[:, 2]
    cost_usd[:, 0] = 2 * cost_usd[:, 2]
    return replace(table, scores=scores, cost_usd=cost_usd)


@pytest.fixture(scope="module")
def tied(outcomes: OutcomesTable) -> OutcomesTable:
    return _with_tied_best(outcomes)


@pytest.fixture(scope="module")
def features(tied: OutcomesTable, encoder: Encoder) -> Features:
    return encode_in_steps(tied, encoder)


@pytest.mark.parametrize("recipe", [HeadEstimator(members=3, hidden=16, max_epochs=20), KnnEstimator(5, members=4)])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_evaluate_measures_what_the_saved_artefact_predicts(
    recipe: GrowingEstimator,
    seed: int,
    ties: bool,
    outcomes: OutcomesTable,
    features: Features,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    table = _with_tied_best(outcomes) if ties else outcomes
    case = fit_case(table, features, "any", recipe, seed)
    train_predictor(table, encoder, estimator=recipe, seed=seed).save(tmp_path)
    loaded = Predictor.load(tmp_path, encoder=encoder)
    rows = table.split_rows(seed)
    for part, sample in ((rows[1], case.validation), (rows[2], case.test)):
        predicted = loaded.predict_features(features.subset(part))
        np.testing.assert_array_equal(predicted.success, sample.estimates.success)
        np.testing.assert_array_equal(predicted.success_std, sample.estimates.success_std)
        np.testing.assert_array_equal(predicted.success_samples, sample.estimates.success_samples)
        cost_usd, spread_usd = expected_cost(
            predicted.output_tokens, predicted.output_tokens_std, table.subset(part).input_tokens, table.price_list()
        )
        np.testing.assert_array_equal(cost_usd, sample.estimates.cost_usd)
        np.testing.assert_array_equal(spread_usd, sample.estimates.cost_std_usd)
    report = loaded.reports[1]
    measured = (case.errors.ece_before, case.errors.ece_after, case.errors.brier_before, case.errors.brier_after)
    assert (report.ece_before, report.ece_after, report.brier_before, report.brier_after) == measured
    assert loaded.calibrated.incumbent.model == case.best == 2


def test_of_equals_the_cheaper_model_is_the_incumbent() -> None:
    score = np.array([0.5, 0.8, 0.8, 0.8])
    assert best_single(score, np.array([0.0, 3.0, 1.0, 2.0])) == 2
    assert best_single(score, np.array([0.0, np.nan, np.nan, 2.0])) == 3
    assert best_single(score, np.full(4, np.nan)) == 1


def test_means_leave_out_what_is_unknown() -> None:
    values = np.array([[1.0, np.nan, np.nan], [0.0, 0.25, np.nan]])
    np.testing.assert_array_equal(mean_known(values), [0.5, 0.25, np.nan])


def test_a_calibration_leaves_equals_alone_and_lets_a_better_newcomer_in(
    tied: OutcomesTable, features: Features, encoder: Encoder
) -> None:
    old = tied.select_models([tied.models[0], tied.models[2]])
    predictor = train_predictor(old, encoder, estimator=KnnEstimator(5, members=2))
    assert predictor.calibrated.incumbent.model == 1
    assert recalibrate(predictor, old).calibrated.incumbent.model == 1
    better = replace(tied.select_models([tied.models[1]]), scores=np.ones((len(tied), 1)))
    grown = add_models(predictor, better)
    assert grown.calibrated.incumbent.model == 1
    complete = replace(tied, scores=np.column_stack([old.scores, better.scores]), models=grown.models)
    assert recalibrate(grown, complete).calibrated.incumbent.model == 2


def test_only_the_incumbent_is_lifted_and_the_calibrated_value_stays_beside(
    outcomes: OutcomesTable, features: Features
) -> None:
    train, validation, test = ((features.subset(r), outcomes.subset(r)) for r in outcomes.split_rows(0))
    fitted = Calibrated.fit(KnnEstimator(3, members=2), train, validation)
    predicted = fitted.predict(test[0])
    assert predicted.calibrated_success is not None
    lift = predicted.success - predicted.calibrated_success
    assert (lift[:, :2] == 0).all()
    assert (lift[:, 2] >= 0).all()
    assert (lift[:, 2] > 0).any()
    expected = fitted.calibration.apply(fitted.estimator.predict(test[0]).success)
    np.testing.assert_array_equal(predicted.calibrated_success, expected)
