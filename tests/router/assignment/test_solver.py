"""The solver against trying every answer, and against the full Pyomo model."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apportion.router.assignment import (
    BatchProblem,
    Mip,
    Prices,
    Status,
    Termination,
    assign,
    full_model,
    solve_model,
)  # fmt: skip
from apportion.router.assignment.core import certified, solve_core
from apportion.router.assignment.pricing import find_prices
from apportion.router.assignment.program import Program
from apportion.router.assignment.solver import Goal, solve
from apportion.router.assignment.summary import violation
from tests.router.assignment.instances import KINDS, best_by_trying, feasible_choices, random_batch

GAPS = (0.0, 1e-4, 1e-2)


def check(problem: BatchProblem, gap: float) -> None:
    """The answer is feasible and within the gap of the best, and its bound holds; or there is none at all."""
    answer, best = assign(problem, Mip(gap=gap)), best_by_trying(problem)
    if best is None:
        assert answer.status is Status.infeasible
        assert answer.termination is Termination.infeasible
        assert answer.infeasibility is not None
        assert answer.infeasibility.amount > 0
        assert (answer.model == -1).all()
        return
    assert answer.status is Status.optimal, answer
    assert violation(problem, answer.model) is None
    assert answer.objective <= best + 1e-9
    assert answer.bound >= best - 1e-9
    assert best - answer.objective <= gap * abs(answer.objective) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_best_of_all_answers(kind: str) -> None:
    for seed in range(100):
        rng = np.random.default_rng([KINDS.index(kind), seed])
        problem = random_batch(rng, kind, int(rng.integers(1, 7)), int(rng.integers(1, 5)))
        check(problem, GAPS[seed % len(GAPS)])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_equals_the_best_of_all_answers_on_small_whole_numbers(data: st.DataObject) -> None:
    """Few distinct numbers: every kind of tie between values, costs, budget and slots."""
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))

    def table(low: int, high: int) -> np.ndarray:
        rows = st.lists(st.integers(low, high), min_size=n * m, max_size=n * m)
        return np.array(data.draw(rows), np.float64).reshape(n, m)

    problem = BatchProblem(
        success=table(0, 4) / 4,
        cost_usd=table(0, 3),
        slots=np.array(data.draw(st.lists(st.integers(0, n), min_size=m, max_size=m))),
        budget_usd=float(data.draw(st.integers(0, 3 * n))),
        allowed=table(0, 3) > 0,
        sequences=np.array(data.draw(st.lists(st.integers(1, 2), min_size=n, max_size=n))),
    )
    check(problem, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_full_model(kind: str) -> None:
    for seed in range(8):
        rng = np.random.default_rng([7, KINDS.index(kind), seed])
        problem = random_batch(rng, kind, int(rng.integers(8, 32)), int(rng.integers(2, 8)))
        answer = assign(problem, Mip(gap=1e-6))
        full = solve_model(full_model(problem), gap=1e-6)
        homeless = problem.allowed is not None and not problem.allowed.any(axis=1).all()
        if full.values is None or homeless:
            assert answer.status is Status.infeasible
            continue
        slack = 3e-6 * abs(full.objective) + 1e-7
        assert answer.status is Status.optimal
        assert answer.objective <= full.bound + slack
        assert answer.bound >= full.objective - slack
        assert full.objective - answer.objective <= slack


@pytest.mark.parametrize("kind", ["plain", "both_tight", "tight_budget", "ties", "sequences", "forbidden"])
def test_certified_pairs_hold_every_better_answer(kind: str) -> None:
    """From any incumbent: the core alone, through Pyomo and HiGHS, gives the best answer."""
    checked = 0
    for seed in range(25):
        rng = np.random.default_rng([9, seed])
        problem = random_batch(rng, kind, int(rng.integers(2, 7)), int(rng.integers(2, 5)))
        choices = feasible_choices(problem)
        if not len(choices):
            continue
        program = Program.of(problem)
        incumbent = choices[rng.integers(len(choices))]
        prices = find_prices(program, None, None, 1e-6).prices
        reduced = program.reduced(prices)
        best = reduced.max(axis=1)
        keep = certified(best[:, None] - reduced, program.bound(best, prices) - program.worth(incumbent) + 1e-9)
        model, _ = solve_core(program, keep, incumbent, gap=0.0, target=None, time_limit_s=None, exact=True)
        assert model is not None
        assert program.keeps(model)
        assert program.worth(model) == pytest.approx(best_by_trying(problem), abs=1e-7)
        checked += 1
    assert checked > 5


def test_a_core_of_free_pairs_is_solved_when_the_rest_has_spent_the_budget() -> None:
    cost = np.array([[0.1, 9.0], [0.2, 9.0], [0.0, 0.0]])
    value = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    program = Program(value, cost, np.ones(3), np.full(2, 3.0), budget=0.3)  # 0.1 + 0.2 is a little more
    keep = np.array([[True, False], [True, False], [True, True]])
    model, _ = solve_core(
        program, keep, np.zeros(3, np.int64), gap=0.0, target=None, time_limit_s=None, exact=True
    )  # fmt: skip
    assert model is not None
    assert model.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", ["plain", "both_tight", "tight_slots", "sequences"])
def test_any_prices_bound_the_objective(kind: str) -> None:
    for seed in range(40):
        rng = np.random.default_rng([11, seed])
        problem = random_batch(rng, kind, 5, 3)
        best = best_by_trying(problem)
        program = Program.of(problem)
        prices = Prices(float(rng.exponential()) / program.cost.max(), rng.exponential(1.0, 3))
        bound = program.bound(program.reduced(prices).max(axis=1), prices)
        assert best is None or bound >= best - 1e-9


@pytest.mark.parametrize(("n", "m", "kind"), [(600, 8, "both_tight"), (1500, 5, "plain"), (700, 6, "ties")])
def test_prices_meet_the_linear_relaxation(n: int, m: int, kind: str) -> None:
    """Through the nested samples: the bound and the relaxation, which bound each other, agree."""
    program = Program.of(random_batch(np.random.default_rng(n), kind, n, m))
    priced = find_prices(program, None, None, 1e-7)
    assert priced.relaxed is not None
    assert priced.relaxed.missing < 1e-9
    assert priced.bound == pytest.approx(priced.relaxed.objective, rel=1e-6)


@pytest.mark.parametrize("kind", ["both_tight", "tight_slots", "tight_budget", "sequences", "weights"])
def test_larger_batches_are_proved_and_keep_every_limit(kind: str) -> None:
    problem = random_batch(np.random.default_rng(3), kind, 1200, 9)
    answer = assign(problem)
    assert answer.status is Status.optimal
    assert answer.gap <= 1e-4
    assert violation(problem, answer.model) is None


def test_warm_prices_change_nothing_but_the_way() -> None:
    problem = random_batch(np.random.default_rng(5), "both_tight", 300, 6)
    cold = assign(problem)
    shifted = random_batch(np.random.default_rng(6), "both_tight", 300, 6)
    for warm in (cold.prices, assign(shifted).prices, Prices(1e6, np.full(6, 1e3))):
        again = assign(problem, warm=warm)
        assert again.status is Status.optimal
        assert again.objective == pytest.approx(cold.objective, rel=2e-4)


def test_loose_limits_are_proved_without_prices() -> None:
    problem = random_batch(np.random.default_rng(0), "loose", 40, 4)
    answer = assign(dataclasses.replace(problem, budget_usd=np.inf))
    assert answer.gap == 0.0
    assert answer.binding == ()
    assert answer.objective == pytest.approx(problem.success.max(axis=1).sum())
    assert answer.prices.budget == 0.0


@pytest.mark.parametrize("kind", ["both_tight", "tight_slots", "tight_budget", "forbidden", "sequences"])
@pytest.mark.parametrize("late_s", [-1.0, 0.003])
def test_past_the_deadline_there_is_still_an_answer_with_a_bound(kind: str, late_s: float) -> None:
    rng = np.random.default_rng(2)
    problem = random_batch(rng, kind, 400, 6)
    if problem.allowed is not None:
        problem = dataclasses.replace(problem, allowed=problem.allowed | (np.arange(6) == 0))
    program = Program.of(problem)
    best = assign(problem, Mip(gap=1e-3))
    solved = solve(program, Goal(deadline=time.perf_counter() + late_s))
    assert solved.model is not None
    assert program.keeps(solved.model)
    assert solved.bound >= best.objective - 1e-9


@pytest.mark.parametrize("kind", ["both_tight", "forbidden", "sequences", "infeasible", "zero_slots"])
def test_without_time_nothing_is_called_infeasible_that_is_not(kind: str) -> None:
    for seed in range(60):
        problem = random_batch(np.random.default_rng([seed, 41]), kind, 6, 3)
        answer, best = assign(problem, Mip(time_limit_s=1e-9)), best_by_trying(problem)
        if answer.feasible:
            assert violation(problem, answer.model) is None
            assert best is not None
            assert answer.objective - 1e-9 <= best <= answer.bound + 1e-9
        elif best is not None:
            assert answer.infeasibility is not None
            assert answer.infeasibility.row == "time_limit"


def test_time_limit_reaches_the_answer() -> None:
    problem = random_batch(np.random.default_rng(2), "both_tight", 3000, 8)
    answer = assign(problem, Mip(gap=0.0, time_limit_s=1e-4))
    assert answer.status is Status.feasible
    assert answer.termination is Termination.time_limit
    assert np.isfinite(answer.bound)


def test_binding_rows_are_named() -> None:
    success = np.array([[0.1, 0.9], [0.1, 0.9]])
    cost = np.array([[1.0, 2.0], [1.0, 2.0]])
    by_slots = assign(BatchProblem(success, cost, np.array([2, 1]), 10.0))
    by_budget = assign(BatchProblem(success, cost, np.array([2, 2]), 3.0))
    assert by_slots.binding == ("slots[1]",)
    assert by_budget.binding == ("budget",)
    assert by_budget.prices.budget > 0
    assert by_slots.prices.slots[1] > 0


def test_budget_equal_to_the_cheapest_cost_is_feasible() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        problem = random_batch(rng, "loose", 12, 3)
        exact = dataclasses.replace(problem, budget_usd=float(problem.cost_usd.min(axis=1).sum()))
        answer = assign(exact)
        assert answer.feasible
        np.testing.assert_array_equal(answer.model, problem.cost_usd.argmin(axis=1))
