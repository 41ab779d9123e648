from __future__ import annotations

import numpy as np
import pytest

from apportion.router.calibration import Calibration, brier_score, expected_calibration_error

RNG = np.random.default_rng(0)


def _overconfident(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Estimates with logits three times too large, and outcomes drawn from the truth."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 1, (n, 2))
    truth = 1 / (1 + np.exp(-logit))
    return 1 / (1 + np.exp(-3 * logit)), (rng.random((n, 2)) < truth).astype(float)


def test_calibration_mends_overconfidence_on_fresh_rows() -> None:
    calibration = Calibration.fit(*_overconfident(2000, 0))
    estimates, scores = _overconfident(4000, 1)
    mended = calibration.apply(estimates)
    assert expected_calibration_error(estimates, scores) > 0.12
    assert expected_calibration_error(mended, scores) < 0.03
    assert brier_score(mended, scores) < brier_score(estimates, scores) - 0.02
    assert np.all((calibration.temperatures > 2) & (calibration.temperatures < 4))


def test_calibration_keeps_order_and_range() -> None:
    calibration = Calibration.fit(*_overconfident(300, 2))
    grid = np.repeat(np.linspace(0, 1, 1001)[:, None], 2, axis=1)
    mapped = calibration.apply(grid)
    assert (np.diff(mapped, axis=0) >= -1e-12).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()


def test_members_are_mapped_like_the_mean() -> None:
    calibration = Calibration.fit(*_overconfident(300, 2))
    samples = RNG.random((4, 10, 2))
    np.testing.assert_array_equal(calibration.apply(samples)[2], calibration.apply(samples[2]))


def test_unknown_scores_do_not_count() -> None:
    estimates, scores = _overconfident(400, 3)
    holes = scores.copy()
    holes[200:] = np.nan
    whole, first = Calibration.fit(estimates, holes), Calibration.fit(estimates[:200], scores[:200])
    np.testing.assert_array_equal(whole.temperatures, first.temperatures)
    np.testing.assert_array_equal(whole.bucket_values, first.bucket_values)
    never = Calibration.fit(estimates, np.full_like(scores, np.nan))
    np.testing.assert_allclose(never.apply(estimates), np.clip(estimates, 1e-4, 1 - 1e-4), atol=2e-3)


def test_the_identity_changes_nothing() -> None:
    estimates = RNG.uniform(0.01, 0.99, (50, 3))
    np.testing.assert_allclose(Calibration.identity(3).apply(estimates), estimates, atol=1e-9)


def test_joining_keeps_each_models_map() -> None:
    one, two = (Calibration.fit(*_overconfident(300, seed)) for seed in (4, 5))
    estimates = RNG.random((20, 4))
    both = one.join(two).apply(estimates)
    np.testing.assert_array_equal(both[:, :2], one.apply(estimates[:, :2]))
    np.testing.assert_array_equal(both[:, 2:], two.apply(estimates[:, 2:]))
    np.testing.assert_array_equal(
        one.select([1, 0]).apply(estimates[:, :2])[:, 0], one.apply(estimates[:, [1, 0]])[:, 1]
    )


def test_one_row_is_enough_and_few_rows_move_little() -> None:
    calibration = Calibration.fit([[0.3]], [[1.0]])
    assert 0.2 < calibration.apply([[0.3]])[0, 0] < 0.6


def test_error_measures_against_their_definitions() -> None:
    estimates, scores = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert expected_calibration_error(estimates, scores, buckets=2) == pytest.approx((0.4 + 0.1) / 2)
    assert brier_score(estimates, scores) == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
