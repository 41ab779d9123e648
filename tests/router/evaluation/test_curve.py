from __future__ import annotations

import numpy as np
import pytest

from apportion.router.evaluation.curve import Curve


def test_points_are_sorted_and_the_best_of_equal_cost_counts() -> None:
    curve = Curve.through(np.array([3.0, 1.0, 3.0]), np.array([0.6, 0.2, 0.5]))
    assert curve.cost_usd.tolist() == [1.0, 3.0]
    assert curve.score.tolist() == [0.2, 0.6]


def test_score_at_a_spend() -> None:
    curve = Curve.through(np.array([1.0, 3.0]), np.array([0.2, 0.6]))
    np.testing.assert_allclose(curve.at(np.array([1.0, 2.0, 3.0, 9.0])), [0.2, 0.4, 0.6, 0.6])
    assert np.isnan(curve.at(np.array([0.5]))).all()


def test_area_is_the_mean_score_over_log_spend() -> None:
    flat = Curve.through(np.array([1.0, 10.0]), np.array([0.5, 0.5]))
    assert flat.area(1.0, 10.0) == pytest.approx(0.5)
    late = Curve.through(np.array([1.0, 9.99, 10.0]), np.array([0.0, 0.0, 1.0]))
    early = Curve.through(np.array([1.0, 1.01, 10.0]), np.array([0.0, 1.0, 1.0]))
    assert late.area(1.0, 10.0) < 0.02
    assert early.area(1.0, 10.0) > 0.98


def test_cost_of_a_score() -> None:
    curve = Curve.through(np.array([1.0, 3.0, 4.0]), np.array([0.2, 0.6, 0.5]))
    assert curve.cost_of(0.4) == pytest.approx(2.0)
    assert curve.cost_of(0.1) == 1.0
    assert np.isnan(curve.cost_of(0.7))
