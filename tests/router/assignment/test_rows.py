"""A user's own rows: kept, and proved against trying every answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyomo.environ as pyo
import pytest

from apportion.router.assignment import BatchProblem, Mip, Status, Termination, assign
from apportion.router.errors import ConfigurationError
from tests.router.assignment.instances import feasible_choices, random_batch

LATENCY_S = np.array([4.0, 1.0, 2.0])
TENANT = np.array([0, 0, 0, 1, 1, 1])


def mean_latency(model: pyo.ConcreteModel, problem: BatchProblem, pairs: np.ndarray) -> None:
    total = sum(LATENCY_S[j] * model.x[i, j] for i, j in pairs)
    model.latency = pyo.Constraint(expr=total <= 2.0 * problem.n_requests)


def fair_share(model: pyo.ConcreteModel, problem: BatchProblem, pairs: np.ndarray) -> None:
    """Each tenant gets the best model for at least one of its requests; no model gets over half of all."""
    model.fair = pyo.ConstraintList()
    for tenant in np.unique(TENANT):
        mine = [model.x[i, j] for i, j in pairs if TENANT[i] == tenant and j == 2]
        model.fair.add(sum(mine) >= 1)
    for j in range(problem.n_models):
        model.fair.add(sum(model.x[i, k] for i, k in pairs if k == j) <= problem.n_requests / 2)


def keeps(choice: np.ndarray) -> bool:
    fair = all((choice[t == TENANT] == 2).any() for t in (0, 1)) and np.bincount(choice).max() <= 3
    return bool(fair and LATENCY_S[choice].sum() <= 12.0)


@pytest.mark.parametrize("kind", ["plain", "tight_budget", "ties", "loose"])
def test_rows_hold_and_the_answer_is_the_best_that_keeps_them(kind: str) -> None:
    told_apart = 0
    for seed in range(10):
        problem = random_batch(np.random.default_rng([seed, 31]), kind, 6, 3)
        answer = assign(problem, Mip(gap=0.0, rows=(mean_latency, fair_share)))
        choices = [c for c in feasible_choices(problem) if keeps(c)]
        if not choices:
            assert answer.status is Status.infeasible
            assert answer.infeasibility is not None
            continue
        best = max(problem.value[np.arange(6), c].sum() for c in choices)
        assert keeps(answer.model)
        assert answer.objective == pytest.approx(best)
        assert answer.bound >= best - 1e-9
        told_apart += answer.objective < assign(problem, Mip(gap=0.0)).objective - 1e-9
    assert told_apart > 0


def test_a_variable_that_a_row_fixes_keeps_its_value() -> None:
    def fixed(model: pyo.ConcreteModel, problem: BatchProblem, pairs: np.ndarray) -> None:
        model.x[0, 1].fix(1)

    problem = BatchProblem(np.array([[0.9, 0.1], [0.8, 0.2]]), np.ones((2, 2)), np.array([2, 2]))
    answer = assign(problem, Mip(rows=(fixed,)))
    assert answer.model.tolist() == [1, 0]
    assert answer.objective == pytest.approx(0.9)
    assert answer.bound >= answer.objective - 1e-9


def test_rows_that_nothing_keeps_are_named_and_a_request_without_a_model_is_found_first() -> None:
    def never(model: pyo.ConcreteModel, problem: BatchProblem, pairs: np.ndarray) -> None:
        model.never = pyo.Constraint(expr=sum(model.x.values()) <= 1)

    def fixed(model: pyo.ConcreteModel, problem: BatchProblem, pairs: np.ndarray) -> None:
        model.x[0, 0].fix(0)
        model.never = pyo.Constraint(expr=model.x[0, 0] >= 1)

    problem = BatchProblem(np.full((2, 2), 0.5), np.ones((2, 2)), np.array([2, 2]))
    for row in (never, fixed):
        answer = assign(problem, Mip(rows=(row,)))
        assert answer.infeasibility is not None
        assert (answer.infeasibility.row, answer.termination) == ("rows", Termination.infeasible)
    for allowed in ([[True, True], [False, False]], [[False, False], [False, False]]):
        answer = assign(dataclasses.replace(problem, allowed=np.array(allowed)), Mip(rows=(never,)))
        assert answer.infeasibility is not None
        assert answer.infeasibility.row == "one_model"
        assert (answer.model == -1).all()


def test_rows_that_are_not_linear_are_refused() -> None:
    def crooked(model: pyo.ConcreteModel, problem: BatchProblem, pairs: np.ndarray) -> None:
        model.crooked = pyo.Constraint(expr=model.x[0, 0] * model.x[1, 1] <= 0)

    problem = random_batch(np.random.default_rng(0), "loose", 3, 2)
    with pytest.raises(ConfigurationError, match="have to be linear"):
        assign(problem, Mip(rows=(crooked,)))
