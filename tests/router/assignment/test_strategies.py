"""Every strategy: what it chooses, and that no answer ever breaks a limit."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import pytest

from apportion.router.assignment import (
    STRATEGIES,
    BatchProblem,
    Greedy,
    Mip,
    Ndch,
    NdchP,
    PerQuery,
    Price,
    Prices,
    Static,
    Status,
    Strategy,
    Termination,
    Threshold,
    assign,
    enforce,
    strategy_from,
)  # fmt: skip
from apportion.router.assignment.hull import hull, mixture
from apportion.router.assignment.summary import violation
from apportion.router.errors import InvalidRequestError
from tests.router.assignment.instances import KINDS, best_by_trying, random_batch

SIMPLE = [name for name in STRATEGIES if name != "robust_mip"]


def small() -> BatchProblem:
    """Two models: a cheap one that is good at the first request only, and a dear one."""
    return BatchProblem(
        success=np.array([[0.9, 0.95], [0.2, 0.9], [0.5, 0.8]]),
        cost_usd=np.array([[1.0, 10.0], [1.0, 10.0], [1.0, 10.0]]),
        slots=np.array([3, 3]),
        budget_usd=100.0,
    )


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("kind", KINDS)
def test_limits_hold_or_no_answer_exists(name: str, kind: str) -> None:
    for seed in range(12):
        problem = random_batch(np.random.default_rng([seed, KINDS.index(kind)]), kind, 6, 3)
        answer, best = assign(problem, strategy_from(name), seed=seed), best_by_trying(problem)
        assert answer.feasible == (best is not None)
        if best is not None:
            assert violation(problem, answer.model) is None
            assert answer.objective <= best + 1e-9
            assert answer.strategy == name


@pytest.mark.parametrize("name", ["threshold", "per_query", "static", "ndch", "ndch_p"])
def test_limits_can_be_ignored_and_then_enforced(name: str) -> None:
    problem = dataclasses.replace(small(), slots=np.array([3, 1]), budget_usd=12.5)
    options = {"model": 1} if name == "static" else {}
    raw = assign(problem, strategy_from(name, limits="ignore", **options), seed=3)
    assert raw.model.min() >= 0
    assert raw.feasible == (violation(problem, raw.model) is None)
    mended = enforce(problem, raw)
    assert violation(problem, mended.model) is None
    assert mended.strategy == name


def test_static_dear_model_breaks_the_budget_when_limits_are_ignored() -> None:
    answer = assign(dataclasses.replace(small(), budget_usd=12.0), Static(1, limits="ignore"))
    assert answer.model.tolist() == [1, 1, 1]
    assert answer.status is Status.infeasible
    assert answer.infeasibility is not None
    assert answer.infeasibility.row == "budget"
    assert answer.infeasibility.amount == pytest.approx(18.0)


def test_threshold_takes_the_cheapest_that_passes() -> None:
    assert assign(small(), Threshold(0.5)).model.tolist() == [0, 1, 0]
    assert assign(small(), Threshold(0.99)).model.tolist() == [1, 1, 1]


def test_per_query_weighs_success_against_cost() -> None:
    assert assign(small(), PerQuery(0.0)).model.tolist() == [1, 1, 1]
    assert assign(small(), PerQuery(0.05)).model.tolist() == [0, 1, 0]


def test_price_uses_the_prices_it_is_given() -> None:
    prices = Prices(0.05, np.zeros(2))
    assert assign(small(), Price(), warm=prices).model.tolist() == [0, 1, 0]
    assert assign(small(), Price()).model.tolist() == [1, 1, 1]


def test_price_with_the_prices_of_the_optimum_is_near_it() -> None:
    problem = random_batch(np.random.default_rng(4), "both_tight", 400, 5)
    best = assign(problem)
    answer = assign(problem, Price(), warm=best.prices)
    assert violation(problem, answer.model) is None
    assert answer.objective >= 0.98 * best.objective


def test_greedy_is_feasible_and_no_better_than_the_best() -> None:
    problem = random_batch(np.random.default_rng(4), "both_tight", 400, 5)
    best, answer = assign(problem), assign(problem, Greedy())
    assert violation(problem, answer.model) is None
    assert 0.8 * best.objective <= answer.objective <= best.bound


def test_equal_success_goes_to_the_cheaper_model() -> None:
    problem = BatchProblem(np.full((4, 3), 0.5), np.tile([3.0, 1.0, 2.0], (4, 1)), np.full(3, 4), math.inf)
    for name in ("mip", "per_query", "price"):
        assert assign(problem, strategy_from(name)).model.tolist() == [1] * 4


def test_hull_leaves_out_dominated_models() -> None:
    cost = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    success = np.array([0.2, 0.1, 0.6, 0.65, 0.8])
    assert hull(cost, success).tolist() == [0, 2, 4]


def test_mixture_spends_the_budget_in_the_mean() -> None:
    problem = dataclasses.replace(small(), budget_usd=3 * 4.0)
    low, high, share = mixture(problem)
    assert (low, high) == (0, 1)
    assert (1 - share) * 1.0 + share * 10.0 == pytest.approx(4.0)
    assert mixture(dataclasses.replace(small(), budget_usd=1.0))[2] == 0.0
    assert mixture(dataclasses.replace(small(), budget_usd=math.inf)) == (1, 1, 1.0)


def test_ndch_p_gives_the_cheap_model_its_easiest_requests() -> None:
    problem = dataclasses.replace(small(), budget_usd=12.0)
    assert assign(problem, NdchP(limits="ignore")).model.tolist() == [0, 1, 0]


def test_ndch_draws_by_seed() -> None:
    success, cost = np.tile([0.4, 0.8], (200, 1)), np.tile([1.0, 3.0], (200, 1))
    problem = BatchProblem(success, cost, np.array([200, 200]), 400.0)
    one, same, other = (assign(problem, Ndch(limits="ignore"), seed=s).model for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    assert one.sum() == pytest.approx(100, abs=30)


@pytest.mark.parametrize("name", [name for name in SIMPLE if name != "mip"])
def test_what_proves_nothing_claims_nothing(name: str) -> None:
    problem = random_batch(np.random.default_rng(3), "both_tight", 60, 4)
    answer = assign(problem, strategy_from(name))
    assert (answer.status, answer.termination) == (Status.feasible, Termination.heuristic)
    assert answer.bound == answer.gap == math.inf


@pytest.mark.parametrize("name", ["greedy", "price"])
def test_moves_through_hardly_any_free_slots_come_near_the_best(name: str) -> None:
    problem = random_batch(np.random.default_rng(2), "both_tight", 3000, 8)
    best = assign(problem)
    answer = assign(problem, strategy_from(name))
    assert violation(problem, answer.model) is None
    assert answer.objective >= 0.9 * best.objective


def test_a_search_for_any_assignment_ends_with_its_time() -> None:
    endless = 0
    for seed in range(40):
        problem = random_batch(np.random.default_rng([seed, 61]), "infeasible", 6, 3)
        problem = dataclasses.replace(problem, sequences=np.array([1, 2, 3, 1, 2, 3]), slots=np.array([4, 4, 4]))
        answer = assign(problem, Greedy(time_limit_s=1e-9))
        if answer.termination is Termination.time_limit:
            assert answer.infeasibility is not None
            assert answer.infeasibility.row == "time_limit"
            endless += 1
    assert endless > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Static(limits="repiar"), "use one of repair, ignore"),
        (lambda: PerQuery(price=math.nan), "success per USD"),
        (lambda: Threshold(target=-0.1), "give a success"),
        (lambda: Mip(gap=math.inf), "relative gap"),
        (lambda: Price(time_limit_s=-1), "seconds > 0"),
        (lambda: Greedy(time_limit_s=0), "seconds > 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(make: Callable[[], Strategy], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        make()


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="strategy 'best': unknown; use one of threshold"):
        strategy_from("best")
    with pytest.raises(InvalidRequestError, match="strategy 'mip': no option 'gapp'; it takes gap, time_limit_s"):
        strategy_from("mip", gapp=1)
    with pytest.raises(InvalidRequestError, match="relative gap >= 0"):
        Mip(gap=-1.0)
    with pytest.raises(InvalidRequestError, match="seconds > 0"):
        Mip(time_limit_s=0.0)
    with pytest.raises(InvalidRequestError, match="prices for 3 engines, the batch has 2"):
        assign(small(), warm=Prices(0.0, np.zeros(3)))
    with pytest.raises(InvalidRequestError, match="model 5"):
        assign(small(), Static(5))


def test_every_strategy_comes_by_its_name() -> None:
    for name, kind in STRATEGIES.items():
        assert isinstance(strategy_from(name), kind)
        assert kind.name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"success": np.zeros(3)}, "success has shape"),
        ({"success": np.array([[0.5, 1.5], [0.1, 0.1], [0.1, 0.1]])}, r"success is 1.5 at \[0, 1\]"),
        ({"success": np.array([[0.5, np.nan], [0.1, 0.1], [0.1, 0.1]])}, "success is nan"),
        ({"cost_usd": np.ones((2, 2))}, r"cost_usd has shape \(2, 2\)"),
        ({"cost_usd": -np.ones((3, 2))}, "cost_usd is -1.0"),
        ({"cost_usd": np.full((3, 2), np.inf)}, "cost_usd is inf"),
        ({"slots": np.array([1, -1])}, "slots is -1"),
        ({"slots": np.array([1.5, 1.0])}, "slots is not an array"),
        ({"budget_usd": -1.0}, "budget_usd is -1.0"),
        ({"budget_usd": math.nan}, "budget_usd is nan"),
        ({"sequences": np.array([1, 0, 1])}, "sequences is 0"),
        ({"weight": np.array([1.0, -2.0, 1.0])}, "weight is -2.0"),
        ({"allowed": np.ones((3, 3), bool)}, "allowed has shape"),
        ({"success_samples": np.ones((4, 3, 3))}, "success_samples has shape"),
        ({"cost_std_usd": "much"}, "cost_std_usd is not an array of numbers"),
    ],
)
def test_bad_batches_name_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        dataclasses.replace(small(), **change)
    assert caught.value.param == next(iter(change))


@pytest.mark.parametrize("name", SIMPLE)
def test_assign_stamps_how_long_it_took(name: str) -> None:
    before = time.perf_counter()
    answer = assign(small(), strategy_from(name))
    assert 0 < answer.wall_time_s < time.perf_counter() - before


def test_only_robust_success_needs_samples() -> None:
    plain = [strategy_from(name) for name in SIMPLE]
    assert not any(strategy.needs_samples for strategy in plain)
    kinds = ("quantile", "gamma", "cost")
    assert [strategy_from("robust_mip", kind=kind).needs_samples for kind in kinds] == [True, True, False]


def test_the_nearer_time_limit_holds() -> None:
    for name in STRATEGIES:
        assert strategy_from(name).with_time_limit(0.5) == strategy_from(name, time_limit_s=0.5)
        assert strategy_from(name, time_limit_s=0.1).with_time_limit(0.5) == strategy_from(name, time_limit_s=0.1)


def test_a_batch_that_fits_its_most_valuable_models_is_optimal_where_the_strategy_says_so() -> None:
    assert [name for name in STRATEGIES if strategy_from(name).maximises_value] == ["mip"]
    assert not Mip(rows=(lambda model, problem, pairs: None,)).maximises_value
    roomy = BatchProblem(np.array([[0.2, 0.9], [0.8, 0.3]]), np.ones((2, 2)), slots=np.array([2, 2]))
    answer = assign(roomy, Mip())
    assert answer.model.tolist() == assign(roomy, PerQuery(limits="ignore")).model.tolist()
    assert answer.bound == pytest.approx(answer.objective)
