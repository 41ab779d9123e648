"""Robust variants against trying every answer."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from apportion.router.assignment import BatchProblem, Mip, RobustMip, Status, Termination, assign, strategy_from
from apportion.router.assignment.budgeted import worst_case
from apportion.router.assignment.robust import lower_quantile
from apportion.router.errors import InvalidRequestError
from tests.router.assignment.instances import feasible_choices, random_batch

TRIED = ("plain", "tight_budget", "both_tight", "forbidden", "weights", "penalties")


def uncertain(seed: int, kind: str, n: int = 5, m: int = 3) -> BatchProblem:
    rng = np.random.default_rng([seed, 21])
    problem = random_batch(rng, kind, n, m)
    return replace(problem, success_std=0.4 * rng.random((n, m)), cost_std_usd=problem.cost_usd * rng.random((n, m)))


def reserved(problem: BatchProblem, model: np.ndarray, z: float) -> float:
    rows = np.arange(len(model))
    assert problem.cost_std_usd is not None
    return float(problem.cost_usd[rows, model].sum() + z * np.sqrt(np.square(problem.cost_std_usd[rows, model]).sum()))


@pytest.mark.parametrize("kind", TRIED)
def test_gamma_finds_the_best_worst_case(kind: str) -> None:
    for seed in range(6):
        problem = uncertain(seed, kind)
        choices = feasible_choices(problem)
        answer = assign(problem, RobustMip("gamma", quantile=0.1, gamma=0.4))
        assert answer.feasible == bool(len(choices))
        if not len(choices):
            continue
        deviation = np.maximum(problem.value - problem.valued(lower_quantile(problem, 0.1)), 0.0)
        best = max(worst_case(problem.value, deviation, choice, 0.4 * 5) for choice in choices)
        assert answer.bound >= best - 1e-9
        assert answer.objective == pytest.approx(best, abs=2e-3)
        assert answer.objective == pytest.approx(worst_case(problem.value, deviation, answer.model, 2.0))


def test_gamma_zero_is_the_plain_problem_and_one_is_the_quantile() -> None:
    problem = uncertain(1, "both_tight", 30, 4)
    none, every = RobustMip("gamma", quantile=0.2, gamma=0.0), RobustMip("gamma", quantile=0.2, gamma=1.0)
    assert assign(problem, none).objective == pytest.approx(assign(problem, Mip()).objective, rel=1e-3)
    quantile = assign(problem, RobustMip("quantile", quantile=0.2))
    assert assign(problem, every).objective == pytest.approx(quantile.objective, rel=1e-3)


@pytest.mark.parametrize("kind", TRIED)
def test_cost_keeps_the_reserve_and_is_near_the_best(kind: str) -> None:
    z = NormalDist().inv_cdf(0.9)
    for seed in range(12):
        problem = uncertain(seed, kind)
        limit = problem.budget_usd * (1 + 1e-8)
        safe = [c for c in feasible_choices(problem) if reserved(problem, c, z) <= limit]
        answer = assign(problem, RobustMip("cost", confidence=0.9))
        assert answer.feasible == bool(safe)
        if safe:
            best = max(problem.value[np.arange(5), c].sum() for c in safe)
            assert reserved(problem, answer.model, z) <= limit
            assert answer.bound >= best - 1e-9
            assert answer.objective >= best - 0.02 * abs(best)


def test_cost_finds_an_answer_where_slots_and_reserve_leave_hardly_one() -> None:
    z, found, tried = NormalDist().inv_cdf(0.9), 0, 0
    for seed in range(60):
        problem = replace(uncertain(seed, "both_tight", 6), budget_usd=np.inf)
        choices = feasible_choices(problem)
        if not len(choices):
            continue
        problem = replace(problem, budget_usd=1.02 * min(reserved(problem, choice, z) for choice in choices))
        answer = assign(problem, RobustMip("cost", confidence=0.9))
        tried += 1
        found += answer.feasible
        if answer.feasible:
            assert reserved(problem, answer.model, z) <= problem.budget_usd * (1 + 1e-8)
        else:
            assert answer.termination is Termination.heuristic, "nothing proves that there is none"
    assert found >= 0.97 * tried


@pytest.mark.parametrize("kind", ["gamma", "cost"])
def test_a_gap_that_was_not_reached_is_not_claimed(kind: str) -> None:
    seen = set()
    for seed in range(20):
        answer = assign(uncertain(seed, "both_tight"), strategy_from("robust_mip", kind=kind, gap=1e-9))
        if answer.feasible:
            assert (answer.status is Status.optimal) == (answer.termination is Termination.gap) == (answer.gap <= 1e-9)
            seen.add(answer.termination)
    assert Termination.heuristic in seen


def test_cost_overspends_no_more_often_than_promised() -> None:
    problem = uncertain(3, "tight_budget", 400, 4)
    assert problem.cost_std_usd is not None
    problem = replace(problem, slots=np.full(4, 400), budget_usd=problem.cost_usd.min(axis=1).sum() * 1.5)
    drawn = np.random.default_rng(0)
    for confidence in (0.5, 0.9):
        answer = assign(problem, RobustMip("cost", confidence=confidence))
        rows = np.arange(400)
        mean, std = problem.cost_usd[rows, answer.model], problem.cost_std_usd[rows, answer.model]
        totals = (mean + std * drawn.standard_normal((2000, 400))).sum(axis=1)
        assert (totals > problem.budget_usd).mean() <= 1 - confidence + 0.04
        assert answer.cost_std_usd == pytest.approx(np.sqrt(np.square(std).sum()))


def test_quantile_maximises_the_pessimistic_success() -> None:
    problem = uncertain(2, "plain", 6, 3)
    choices = feasible_choices(problem)
    low = lower_quantile(problem, 0.25)
    answer = assign(problem, RobustMip("quantile", quantile=0.25))
    assert answer.objective == pytest.approx(max(low[np.arange(6), c].sum() for c in choices), rel=2e-4)
    rows = np.arange(6)
    assert answer.expected_success == pytest.approx(problem.success[rows, answer.model].mean())


def test_quantile_prefers_bootstrap_samples() -> None:
    samples = np.random.default_rng(0).random((101, 2, 2))
    problem = BatchProblem(
        np.full((2, 2), 0.5), np.ones((2, 2)), np.array([2, 2]), 9.0, success_std=np.ones((2, 2)),
        success_samples=samples,
    )  # fmt: skip
    np.testing.assert_allclose(lower_quantile(problem, 0.1), np.quantile(samples, 0.1, axis=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "worst"}, "kind is 'worst'; use one of"),
        ({"kind": "cost", "quantile": 0.1}, "quantile has no effect"),
        ({"kind": "quantile", "gamma": 0.1}, "gamma has no effect"),
        ({"kind": "quantile", "quantile": 0.0}, "quantile is 0.0"),
        ({"kind": "cost", "confidence": 1.0}, "confidence is 1.0"),
        ({"kind": "gamma", "gamma": 1.5}, "gamma is 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        RobustMip(**options)  # type: ignore[arg-type]


def test_missing_spread_is_an_error_that_says_what_to_give() -> None:
    problem = random_batch(np.random.default_rng(0), "plain", 3, 2)
    with pytest.raises(InvalidRequestError, match="success_std: missing, and success_samples"):
        assign(problem, RobustMip("quantile"))
    with pytest.raises(InvalidRequestError, match="cost_std_usd: missing"):
        assign(problem, RobustMip("cost"))
