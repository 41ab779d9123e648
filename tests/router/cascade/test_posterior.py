"""P(right | prior, signals): calibrated on fresh answers, better than the prior, and the prior without signals."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.router.calibration import brier_score, expected_calibration_error
from apportion.router.cascade.posterior import FEWEST_EACH, Posterior, learnable
from tests.router.cascade.made import held_out, pair_of


@pytest.mark.parametrize("auc", [0.5, 0.7, 0.9])
def test_it_is_calibrated_on_fresh_answers(auc: float) -> None:
    known, fresh = held_out(0, auc, n=800), held_out(1, auc, n=8_000)
    posterior = Posterior.fit(known.success[:, 0], known.signals[:, 0], known.scores[:, 0])

    sure = posterior(fresh.success[:, 0], fresh.signals[:, 0])

    assert expected_calibration_error(sure, fresh.scores[:, 0]) < 0.05
    gained = brier_score(fresh.success[:, 0], fresh.scores[:, 0]) - brier_score(sure, fresh.scores[:, 0])
    assert gained > {0.5: -0.005, 0.7: 0.01, 0.9: 0.05}[auc]


def test_how_often_answers_will_pass_is_what_happens() -> None:
    known, fresh = held_out(0, 0.8, n=3_000), held_out(1, 0.8, n=20_000)
    posterior = Posterior.fit(known.success[:, 0], known.signals[:, 0], known.scores[:, 0])
    prior, right = fresh.success[:, 0], fresh.scores[:, 0] == 1
    sure = posterior(prior, fresh.signals[:, 0])

    for threshold in (0.3, 0.5, 0.7):
        of_right, of_wrong = posterior.passing(prior, np.full(len(prior), threshold))
        assert of_right[right].mean() == pytest.approx((sure >= threshold)[right].mean(), abs=0.03)
        assert of_wrong[~right].mean() == pytest.approx((sure >= threshold)[~right].mean(), abs=0.03)


def test_a_threshold_out_of_reach_is_never_passed_and_one_below_nothing_always() -> None:
    rows = held_out(0, 0.8)
    posterior = Posterior.fit(rows.success[:, 0], rows.signals[:, 0], rows.scores[:, 0])

    passing = np.array(posterior.passing(np.full(2, 0.5), np.array([-0.1, 1.1])))

    assert passing.tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_without_signals_the_prior_stands() -> None:
    rows = held_out(0, 0.8)
    posterior = Posterior.fit(rows.success[:, 0], rows.signals[:, 0], rows.scores[:, 0])

    unknown = posterior(np.array([0.2, 0.7]), np.full((2, 4), np.nan))

    assert unknown.tolist() == [0.2, 0.7]


def test_scores_between_count_as_both() -> None:
    rows = held_out(0, 0.8, n=2_000)
    halved = Posterior.fit(rows.success[:, 0], rows.signals[:, 0], 0.25 + 0.5 * rows.scores[:, 0])

    sure = halved(rows.success[:, 0], rows.signals[:, 0])

    assert np.mean((sure > 0.2) & (sure < 0.8)) > 0.9
    assert sure.mean() == pytest.approx(0.25 + 0.5 * rows.scores[:, 0].mean(), abs=0.01)
    assert np.quantile(sure, 0.1) < 0.4 < 0.6 < np.quantile(sure, 0.9)


def test_too_few_of_either_kind_teach_nothing() -> None:
    rows = held_out(0, 0.8, n=100)
    scores, signals = np.ones(100), rows.signals[:, 0]
    scores[: FEWEST_EACH - 1] = 0
    assert not learnable(signals, scores)
    scores[FEWEST_EACH - 1] = 0
    assert learnable(signals, scores)
    assert not learnable(np.where(np.arange(100)[:, None] < 1, np.nan, signals), scores)


def test_shifts_say_what_the_second_does_where_the_first_failed() -> None:
    known, fresh = held_out(0, 0.8, n=3_000), held_out(1, 0.8, n=20_000)
    pair = pair_of(known, 0, 2)

    of_wrong, of_right = pair.second_by_outcome(fresh.success[:, 2])

    right = fresh.scores[:, 0] == 1
    assert pair.shifts[0] < 0 < pair.shifts[1]
    assert of_wrong[~right].mean() == pytest.approx(fresh.scores[~right, 2].mean(), abs=0.03)
    assert of_right[right].mean() == pytest.approx(fresh.scores[right, 2].mean(), abs=0.03)
