from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apportion.router.errors import InvalidRequestError
from apportion.router.estimates import Estimates


def estimates(n: int = 6, m: int = 3, members: int = 4, seed: int = 0) -> Estimates:
    rng = np.random.default_rng(seed)
    names = ("success", "cost_usd", "input_tokens", "output_tokens", "success_std", "cost_std_usd")
    return Estimates(
        **{name: rng.random((n, m)) for name in names},
        success_samples=rng.random((members, n, m)),
        errors={1: InvalidRequestError("unreadable")},
    )


def test_lower_quantile_is_lower_and_comes_from_the_members_if_there_are_any() -> None:
    spread = replace(estimates(), success_samples=None)
    lower = spread.at_quantile(0.1)
    assert (lower.success <= spread.success).all()
    assert (lower.success < spread.success).any()
    members = np.stack([spread.success * factor for factor in np.linspace(0, 1, 11)])
    np.testing.assert_allclose(replace(spread, success_samples=members).at_quantile(0.5).success, spread.success / 2)
    with pytest.raises(InvalidRequestError, match="score the workload with a predictor"):
        replace(spread, success_std=None).at_quantile(0.1)
    with pytest.raises(InvalidRequestError, match="between 0 and 1"):
        spread.at_quantile(1.0)


def test_the_problem_of_some_rows_is_the_subset_of_the_problem() -> None:
    whole, rows = estimates(), np.array([4, 0])
    slots = np.array([2, 2, 2])
    one, other = whole.rows(rows).problem(slots, 1.0), whole.problem(slots, 1.0).subset(rows)
    for name in ("success", "cost_usd", "success_std", "success_samples", "cost_std_usd", "slots", "budget_usd"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert whole.problem(slots, with_samples=False).success_samples is None


def test_what_a_model_cannot_read_stays_with_its_request() -> None:
    shape = (2, 2)
    one = Estimates(*(np.ones(shape) for _ in range(4)), refusals={1: {0: "no system turns"}})
    assert one.rows([1, 0]).refusals == {0: {0: "no system turns"}}
    assert one.readable().tolist() == [[True, True], [False, True]]
    problem = one.problem(np.array([2, 2]), allowed=np.array([[True, False], [True, True]]))
    assert problem.allowed is not None
    assert problem.allowed.tolist() == [[True, False], [False, True]]
