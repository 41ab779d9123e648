"""Infeasible batches: the reason, its amount, and whom to admit instead."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apportion.router.assignment import BatchProblem, assign, largest_feasible_subset
from tests.router.assignment.instances import KINDS, best_by_trying, feasible_choices, most_by_trying, random_batch


def test_budget_short_by_the_cheapest_cost() -> None:
    cost = np.array([[1.0, 2.0], [3.0, 5.0]])
    answer = assign(BatchProblem(np.full((2, 2), 0.5), cost, np.array([2, 2]), 3.0))
    assert answer.infeasibility is not None
    assert answer.infeasibility.row == "budget"
    assert answer.infeasibility.amount == pytest.approx(1.0)
    assert answer.infeasibility.cheapest_cost_usd == pytest.approx(4.0)
    assert "raise it" in answer.infeasibility.message


def test_cheapest_cost_counts_the_slots() -> None:
    """The cheap model takes one request only, so the cheapest assignment is dearer than the cheapest models."""
    cost = np.array([[1.0, 4.0], [1.0, 9.0]])
    answer = assign(BatchProblem(np.full((2, 2), 0.5), cost, np.array([1, 2]), 3.0))
    assert answer.infeasibility is not None
    assert answer.infeasibility.cheapest_cost_usd == pytest.approx(5.0)
    assert answer.infeasibility.amount == pytest.approx(2.0)


def test_missing_slots_are_counted() -> None:
    problem = BatchProblem(np.full((5, 2), 0.5), np.ones((5, 2)), np.array([1, 2]), math.inf)
    reason = assign(problem).infeasibility
    assert reason is not None
    assert (reason.row, reason.amount) == ("slots", 2.0)


def test_missing_slots_are_counted_where_pairs_are_forbidden() -> None:
    allowed = np.array([[True, False]] * 3 + [[True, True]])
    problem = BatchProblem(np.full((4, 2), 0.5), np.ones((4, 2)), np.array([2, 4]), math.inf, allowed=allowed)
    reason = assign(problem).infeasibility
    assert reason is not None
    assert (reason.row, reason.amount) == ("slots", 1.0)


def test_requests_that_no_model_may_answer() -> None:
    allowed = np.array([[False, False], [True, True]])
    problem = BatchProblem(np.full((2, 2), 0.5), np.ones((2, 2)), np.array([2, 2]), math.inf, allowed=allowed)
    reason = assign(problem).infeasibility
    assert reason is not None
    assert (reason.row, reason.amount) == ("one_model", 1.0)
    assert largest_feasible_subset(problem).tolist() == [False, True]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("loose", "no_budget")])
def test_as_many_as_possible_are_admitted(kind: str) -> None:
    for seed in range(12):
        rng = np.random.default_rng([seed, 3])
        problem = random_batch(rng, kind, int(rng.integers(1, 6)), int(rng.integers(1, 4)))
        admit = largest_feasible_subset(problem)
        assert admit.sum() == most_by_trying(problem)
        if admit.any():
            assert assign(problem.subset(admit)).feasible


def test_a_large_overload_is_shed_to_the_slots() -> None:
    problem = random_batch(np.random.default_rng(1), "plain", 2000, 6)
    tight = BatchProblem(problem.success, problem.cost_usd, np.full(6, 100), problem.budget_usd)
    admit = largest_feasible_subset(tight)
    assert admit.sum() == 600
    assert assign(tight.subset(admit)).feasible


def test_infeasible_amount_is_what_mends_it() -> None:
    mended = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 8])
        problem = random_batch(rng, "infeasible", 5, 3)
        reason = assign(problem).infeasibility
        if reason is None or reason.row != "budget":
            continue
        assert reason.cheapest_cost_usd - problem.budget_usd == pytest.approx(reason.amount)
        exact = BatchProblem(problem.success, problem.cost_usd, problem.slots, reason.cheapest_cost_usd)
        assert best_by_trying(exact) is not None
        less = BatchProblem(problem.success, problem.cost_usd, problem.slots, reason.cheapest_cost_usd * 0.999)
        assert not len(feasible_choices(less))
        mended += 1
    assert mended > 10
