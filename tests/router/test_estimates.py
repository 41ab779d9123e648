from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apportion.router.errors import InvalidRequestError
from apportion.router.estimates import Estimates, concatenate


def estimates(n: int = 6, m: int = 3, members: int = 4, seed: int = 0) -> Estimates:
    rng = np.random.default_rng(seed)
    names = ("success", "cost_usd", "input_tokens", "output_tokens", "success_std", "cost_std_usd")
    return Estimates(
        **{name: rng.random((n, m)) for name in names},
        success_samples=rng.random((members, n, m)),
        errors={1: InvalidRequestError("unreadable")},
    )


def test_rows_and_concatenate_are_each_others_inverse() -> None:
    whole = estimates()
    parts = [whole.rows([0, 1]), whole.rows(np.array([2])), whole.rows([3, 4, 5])]
    again = concatenate(parts)
    for name in ("success", "cost_usd", "input_tokens", "output_tokens", "success_std", "cost_std_usd"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    np.testing.assert_array_equal(again.success_samples, whole.success_samples)
    assert again.errors == whole.errors
    assert whole.rows([5, 1]).errors.keys() == {1}


def test_spreads_and_samples_survive_only_where_every_part_has_them() -> None:
    bare = replace(estimates(), success_std=None, success_samples=None, guessed=frozenset({1}))
    both = concatenate([estimates(), bare])
    assert both.success_std is None
    assert both.success_samples is None
    assert both.cost_std_usd is not None
    n = len(estimates())
    assert both.guessed == {n + 1}
    assert both.rows([n, n + 1]).predicted.tolist() == [True, False]
    other = replace(estimates(), success_samples=np.zeros((7, 6, 3)))
    assert concatenate([estimates(), other]).success_samples is None


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


@pytest.mark.parametrize("name", ["success", "cost_usd", "cost_std_usd"])
def test_shapes_and_numbers_are_checked(name: str) -> None:
    estimates().check(6, 3)
    with pytest.raises(ValueError, match=f"{name} has shape"):
        replace(estimates(), **{name: np.zeros((5, 3))}).check(6, 3)
    with pytest.raises(ValueError, match=f"{name} holds a value"):
        replace(estimates(), **{name: np.full((6, 3), np.nan)}).check(6, 3)


def test_what_a_model_cannot_read_stays_with_its_request() -> None:
    shape = (2, 2)
    one = Estimates(*(np.ones(shape) for _ in range(4)), refusals={1: {0: "no system turns"}})
    both = concatenate([one, one])
    assert both.refusals == {1: {0: "no system turns"}, 3: {0: "no system turns"}}
    assert both.rows([2, 3]).refusals == {1: {0: "no system turns"}}
    assert one.readable().tolist() == [[True, True], [False, True]]
    problem = one.problem(np.array([2, 2]), allowed=np.array([[True, False], [True, True]]))
    assert problem.allowed is not None
    assert problem.allowed.tolist() == [[True, False], [False, True]]
