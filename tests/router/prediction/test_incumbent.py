from __future__ import annotations

import numpy as np
import pytest

from apportion.router.assignment import BatchProblem, Mip, assign
from apportion.router.prediction.incumbent import FEWEST_SWITCHES, Incumbent
from apportion.router.prediction.prediction import Prediction


def _prediction(success: np.ndarray) -> Prediction:
    unknown = np.full(success.shape, np.nan)
    return Prediction.from_samples(np.stack([success, success]), unknown, unknown)


def _drawn(success: np.ndarray, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(success.shape) < success).astype(float)


def test_an_advantage_that_is_real_is_taken_at_its_word() -> None:
    success = np.random.default_rng(0).uniform(0.1, 0.9, (800, 3))
    incumbent = Incumbent.fit(success, _drawn(success, 1), model=1)
    assert incumbent.margins[1] == 0
    assert (incumbent.margins < 0.2).all()


@pytest.mark.parametrize("seed", range(5))
def test_an_advantage_by_chance_never_counts(seed: int) -> None:
    """All models are equally good, and the estimates are noise: switching cannot pay."""
    truth = np.full((800, 3), 0.7)
    noisy = np.clip(truth + np.random.default_rng(seed).normal(0, 0.05, truth.shape), 0, 1)
    incumbent = Incumbent.fit(noisy, _drawn(truth, seed + 50), model=0)
    assert (incumbent.margins[1:] == 1).all()
    applied = incumbent.apply(_prediction(noisy))
    assert (applied.success.argmax(axis=1) == 0).all()


def test_a_small_claim_is_idle_where_only_large_ones_are_real() -> None:
    """Claims of 0.1 are worth nothing, claims of 0.4 are true: the margin tells them apart."""
    success = np.tile([0.5, 0.6], (400, 1))
    success[:200] = [0.4, 0.8]
    truth = success.copy()
    truth[200:] = [0.7, 0.5]
    incumbent = Incumbent.fit(success, _drawn(truth, 3), model=0)
    assert incumbent.margins[1] == pytest.approx(0.1)
    chosen = incumbent.apply(_prediction(success)).success.argmax(axis=1)
    assert (chosen[:200] == 1).all()
    assert (chosen[200:] == 0).all()


def test_few_switches_prove_nothing() -> None:
    success = np.tile([0.5, 0.6], (FEWEST_SWITCHES, 1))
    scores = np.tile([0.0, 1.0], (FEWEST_SWITCHES, 1))
    assert Incumbent.fit(success, scores, model=0).margins[1] == 0
    assert Incumbent.fit(success[1:], scores[1:], model=0).margins[1] == 1
    scores[0, 1] = np.nan
    assert Incumbent.fit(success, scores, model=0).margins[1] == 1


def test_only_the_incumbent_moves_and_only_where_a_claim_is_unproven() -> None:
    success = np.array([[0.8, 0.85, 0.5], [0.8, 0.95, 0.85], [0.8, 0.7, 0.6]])
    applied = Incumbent(0, np.array([0.0, 0.1, 0.1])).apply(_prediction(success))
    np.testing.assert_array_equal(applied.success[:, 1:], success[:, 1:])
    np.testing.assert_allclose(applied.success[:, 0], [0.85, 0.85, 0.8], atol=1e-8)
    assert applied.success.argmax(axis=1).tolist() == [0, 1, 0]
    np.testing.assert_allclose(applied.success_samples[0], applied.success)


def test_models_turn_and_grow_with_their_margins() -> None:
    incumbent = Incumbent(1, np.array([0.2, 0.0, 0.3]))
    turned = incumbent.select([2, 1, 0])
    assert (turned.model, turned.margins.tolist()) == (1, [0.3, 0.0, 0.2])
    without = incumbent.select([0, 2])
    np.testing.assert_array_equal(without.margins, [0.0, 0.0])
    plain = _prediction(np.array([[0.2, 0.9], [0.6, 0.5]]))
    np.testing.assert_array_equal(without.apply(plain).success, plain.success)
    grown = incumbent.with_new_models(2)
    assert (grown.model, grown.margins.tolist()) == (1, [0.2, 0.0, 0.3, 0.0, 0.0])


def test_with_its_budget_a_batch_goes_to_the_incumbent_and_with_less_the_claims_still_save() -> None:
    """Unproven claims decide nothing while money is there, but say where saving hurts least."""
    rng = np.random.default_rng(5)
    success = np.column_stack([rng.uniform(0.7, 0.9, 64), rng.uniform(0.5, 0.95, 64)])
    applied = Incumbent(0, np.array([0.0, 1.0])).apply(_prediction(success))
    cost_usd = np.tile([2.0, 1.0], (64, 1))
    rich, poor = (
        assign(BatchProblem(applied.success, cost_usd, np.full(2, 64), budget), Mip()) for budget in (128.0, 108.0)
    )
    assert (rich.model == 0).all()
    moved, claims = poor.model == 1, success[:, 1] - success[:, 0]
    assert moved.sum() == 20
    unproven = claims > 0
    assert moved[unproven].all() or not moved[~unproven].any()
