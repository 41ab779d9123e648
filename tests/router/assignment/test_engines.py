"""Models that share engines, loads that depend on the model, and limits with a name: against trying every answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import (
    ENDLESS,
    BatchProblem,
    Limit,
    Mip,
    Prices,
    RobustMip,
    Status,
    Termination,
    assign,
    enforce,
    first_in_line,
    full_model,
    largest_feasible_subset,
    solve_model,
    strategy_from,
)
from apportion.router.assignment.program import Program
from apportion.router.assignment.summary import violation
from apportion.router.errors import InvalidRequestError
from tests.router.assignment.instances import best_by_trying, feasible_choices, most_by_trying, shared_batch

STRATEGIES = [
    strategy_from(name) for name in ("greedy", "price", "threshold", "ndch", "ndch_p", "per_query", "static")
] + [RobustMip("quantile"), RobustMip("gamma"), RobustMip("cost")]  # fmt: skip
GAPS = (0.0, 1e-4, 1e-2)


def small(seed: int) -> BatchProblem:
    rng = np.random.default_rng([77, seed])
    return shared_batch(rng, int(rng.integers(1, 7)), int(rng.integers(1, 5)))


def test_equals_the_best_of_all_answers_and_names_what_is_short() -> None:
    short = dict.fromkeys(("one_model", "slots", "budget", "limits"), 0)
    for seed in range(1000):
        problem, gap = small(seed), GAPS[seed % len(GAPS)]
        answer, best = assign(problem, Mip(gap=gap)), best_by_trying(problem)
        if best is None:
            assert answer.termination is Termination.infeasible
            assert answer.infeasibility is not None
            assert answer.infeasibility.amount > 0
            short[answer.infeasibility.row] += 1
            continue
        assert answer.status is Status.optimal, (seed, answer)
        assert violation(problem, answer.model) is None
        assert answer.objective <= best + 1e-9 <= answer.bound + 2e-9
        assert best - answer.objective <= gap * abs(answer.objective) + 1e-9
    assert min(short.values()) > 10


def test_any_prices_bound_the_objective() -> None:
    for seed in range(1000):
        problem, rng = small(seed), np.random.default_rng([78, seed])
        best, program = best_by_trying(problem), Program.of(problem)
        slots = np.where(np.isfinite(program.slots), rng.exponential(1.0, program.n_engines), 0.0)
        prices = Prices(float(rng.exponential()), slots, rng.exponential(1.0, len(program.limits)))
        assert best is None or program.bound(program.reduced(prices).max(axis=1), prices) >= best - 1e-9


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: f"{s.name} {getattr(s, 'kind', '')}".strip())
def test_every_strategy_keeps_every_row_or_says_that_nothing_does(strategy: RobustMip) -> None:
    for seed in range(60):
        problem = small(seed)
        answer, possible = assign(problem, strategy), len(feasible_choices(problem)) > 0
        # A reserve for uncertain costs can ask for more than there is.
        assert answer.feasible == possible or (not answer.feasible and getattr(strategy, "kind", "") == "cost")
        assert not answer.feasible or violation(problem, answer.model) is None


def test_a_choice_that_breaks_a_limit_is_mended_and_is_never_called_feasible() -> None:
    broken = 0
    for seed in range(200):
        problem = small(seed)
        careless = assign(problem, strategy_from("per_query", limits="ignore"))
        assert careless.feasible == (violation(problem, careless.model) is None)
        broken += careless.infeasibility is not None and careless.infeasibility.row == "limits"
        assert enforce(problem, careless).feasible == (len(feasible_choices(problem)) > 0)
    assert broken > 10


def test_the_largest_subset_and_the_first_in_line_keep_their_rows() -> None:
    for seed in range(60):
        rng = np.random.default_rng([79, seed])
        problem = shared_batch(rng, int(rng.integers(1, 6)), int(rng.integers(1, 4)))
        admitted = largest_feasible_subset(problem)
        assert admitted.sum() == most_by_trying(problem)
        assert not admitted.any() or assign(problem.subset(admitted)).feasible
        in_line = first_in_line(problem)
        unlimited = replace(problem, budget_usd=np.inf, limits=())
        assert not in_line.any() or assign(unlimited.subset(in_line)).feasible


def test_equals_the_full_model() -> None:
    for seed in range(30):
        rng = np.random.default_rng([80, seed])
        problem = shared_batch(rng, int(rng.integers(8, 32)), int(rng.integers(2, 8)))
        answer, full = assign(problem, Mip(gap=1e-6)), solve_model(full_model(problem), gap=1e-6)
        if full.values is None or (problem.allowed is not None and not problem.allowed.any(axis=1).all()):
            assert answer.status is Status.infeasible
            continue
        slack = 3e-6 * abs(full.objective) + 1e-7
        assert answer.status is Status.optimal
        assert answer.bound >= full.objective - slack
        assert abs(full.objective - answer.objective) <= slack


def variants(n: int, limits: tuple[Limit, ...] = ()) -> BatchProblem:
    """16 models, four to an engine, dearer and better by the variant; budget and slots are tight."""
    rng = np.random.default_rng(4)
    effort = np.tile(np.arange(4.0), 4)
    success = 1 / (1 + np.exp(rng.normal(0, 1.3, (n, 1)) - 0.3 * effort - rng.normal(0, 0.8, (n, 16))))
    cost = np.repeat([1.0, 2.0, 5.0, 9.0], 4) * 1.7**effort * rng.lognormal(0, 0.5, (n, 1))
    cheapest, best = cost.min(axis=1).sum(), cost[np.arange(n), success.argmax(axis=1)].sum()
    return BatchProblem(
        success, cost, np.full(4, int(0.3 * n)), float(cheapest + 0.4 * (best - cheapest)),
        row_of_column=np.arange(16) // 4, limits=limits,
    )  # fmt: skip


def test_larger_batches_of_variants_are_proved_with_limits_and_from_warm_prices() -> None:
    problem = variants(1500)
    use = np.random.default_rng(5).lognormal(0, 0.5, problem.success.shape)
    free = assign(problem)
    taken = [float((use * half)[np.arange(1500), free.model].sum()) for half in (np.arange(16) < 8, np.arange(16) >= 8)]
    limits = (Limit("left", use * (np.arange(16) < 8), 0.9 * taken[0]), Limit("right", use * (np.arange(16) >= 8), 1e6))
    limited = replace(problem, limits=limits)
    cold = assign(limited)
    warm = assign(limited, warm=cold.prices)
    for answer in (free, cold, warm):
        assert answer.status is Status.optimal
        assert violation(problem, answer.model) is None
    assert cold.objective < free.objective
    assert "limits[left]" in cold.binding
    assert (cold.prices.limits > 0).tolist() == [True, False]
    assert warm.objective == pytest.approx(cold.objective, rel=2e-4)
    assert assign(problem, warm=cold.prices).status is Status.optimal


def test_an_endless_engine_takes_everyone() -> None:
    """One pseudo-model that costs nothing beside a real one: what a cascade's second plan looks like."""
    success = np.array([[0.5, 0.9]] * 4)
    problem = BatchProblem(success, np.array([[0.0, 1.0]] * 4), np.array([ENDLESS, 2]), row_of_column=np.array([0, 1]))
    answer = assign(problem)
    assert np.bincount(answer.model).tolist() == [2, 2]
    assert answer.binding == ("slots[1]",)
    assert assign(replace(problem, slots=np.array([ENDLESS, 0]))).model.tolist() == [0, 0, 0, 0]
    assert first_in_line(problem).all()
    assert assign(problem, strategy_from("static", model=1)).feasible


def test_variants_change_places_on_a_full_engine() -> None:
    """Both slots are taken, and yet a request may go over to its engine's better variant."""
    success = np.array([[0.4, 0.6, 0.1], [0.4, 0.6, 0.1]])
    problem = BatchProblem(success, np.array([[1.0, 2.0, 1.0]] * 2), np.array([2, 5]), 3.0, row_of_column=[0, 0, 1])
    for name in ("mip", "greedy"):
        assert sorted(assign(problem, strategy_from(name)).model.tolist()) == [0, 1]


def test_a_limit_that_nothing_keeps_is_named_with_what_it_lacks() -> None:
    use = np.array([[2.0, 3.0], [2.0, 3.0]])
    problem = BatchProblem(np.full((2, 2), 0.5), np.ones((2, 2)), np.array([1, 1]), limits=(Limit("tokens", use, 4.0),))
    reason = assign(problem).infeasibility
    assert reason is not None
    assert (reason.row, reason.amount) == ("limits", pytest.approx(1.0))
    assert reason.message == "limits: tokens is short by 1; raise it, or send fewer requests"
    assert assign(replace(problem, limits=(Limit("tokens", use, 5.0),))).feasible


def test_limits_that_are_too_low_together_are_named_together() -> None:
    one, other = np.array([[1.0, 0.0]] * 2), np.array([[0.0, 1.0]] * 2)
    limits = (Limit("left", one, 0.5), Limit("right", other, 0.5))
    roomy = BatchProblem(np.full((2, 2), 0.5), np.ones((2, 2)), np.array([2, 2]), limits=limits)
    assert assign(roomy).infeasibility.message.startswith("limits: left is short by")  # type: ignore[union-attr]
    third = (*limits, Limit("all", one + other, 1.0))
    reason = assign(replace(roomy, limits=third)).infeasibility
    assert reason is not None
    assert reason.message.startswith("limits: left and right and all leave no room for")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_of_column": [0, 2]}, r"row_of_column is 2 at \[1\]; give an index into slots, which has 2 engines"),
        ({"row_of_column": [0]}, "row_of_column has shape"),
        ({"sequences": np.ones((3, 1), int)}, r"sequences has shape \(3, 1\); give shape \(2, 2\)"),
        ({"limits": (Limit("a", np.ones((2, 1)), 1.0),)}, r"limits\[a\].use has shape \(2, 1\); give shape \(2, 2\)"),
        ({"limits": (Limit("a", np.ones((2, 2)), 1.0),) * 2}, "limits has the name 'a' twice; give each limit"),
    ],
)  # fmt: skip
def test_wrong_rows_are_refused(change: dict[str, object], message: str) -> None:
    problem = BatchProblem(np.full((2, 2), 0.5), np.ones((2, 2)), np.array([2, 2]))
    with pytest.raises(InvalidRequestError, match=message):
        replace(problem, **change)  # type: ignore[arg-type]


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"limits\[a\].use is -1.0 at \[0, 1\]; every value has to be"):
        Limit("a", np.array([[0.0, -1.0]]), 1.0)
    with pytest.raises(InvalidRequestError, match=r"limits\[a\].at_most is inf; give a number >= 0, or leave"):
        Limit("a", np.ones((1, 1)), np.inf)
