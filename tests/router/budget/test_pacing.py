from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from apportion.router.assignment import BatchProblem, Mip, Status, assign
from apportion.router.budget import CarryOver, DualDescent, Pacer, PerBatch, Resolving, WindowState
from apportion.router.errors import ConfigurationError

COSTS = np.array([1.0, 4.0, 10.0])
BATCH, BATCHES = 16, 120


def window(committed: float, now: float, budget: float = 100.0) -> WindowState:
    return WindowState(budget_usd=budget, committed_usd=committed, starts=0.0, ends=10.0, now=now)


def easy(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile([0.2, 0.5, 0.9], (n, 1)), np.tile(COSTS, (n, 1))


def test_a_cap_for_each_batch_forgets_what_was_saved() -> None:
    pacer = PerBatch(2.0)
    assert pacer.allowance_usd(*easy(3), window(0, 9)) == 6.0
    assert pacer.allowance_usd(*easy(3), window(95, 9)) == 5.0


def test_what_is_unspent_carries_over() -> None:
    pacer = CarryOver(ahead=0.1)
    assert pacer.allowance_usd(*easy(1), window(0, 0)) == pytest.approx(10.0)
    assert pacer.allowance_usd(*easy(1), window(0, 5)) == pytest.approx(55.0)
    assert pacer.allowance_usd(*easy(1), window(40, 5)) == pytest.approx(15.0)
    assert pacer.allowance_usd(*easy(1), window(40, 10)) == pytest.approx(60.0)


@pytest.mark.parametrize("pacer", [CarryOver(), DualDescent(), Resolving()])
def test_pacing_refuses_nobody_while_there_is_money(pacer: Pacer) -> None:
    pacer.allowance_usd(*easy(4), window(0, 0.1))
    assert pacer.allowance_usd(*easy(4), window(80, 0.2)) >= 4.0
    assert pacer.allowance_usd(*easy(4), window(98, 0.3)) == 2.0


@pytest.mark.parametrize(
    ("field", "make"), [("usd", PerBatch), ("ahead", CarryOver), ("gain", DualDescent), ("memory", Resolving)]
)
@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_settings_must_be_positive(field: str, make: Callable[[float], Pacer], wrong: float) -> None:
    with pytest.raises(ConfigurationError, match=field):
        make(wrong)


def test_models_that_may_not_answer_and_models_that_help_nobody_are_no_way_to_spend() -> None:
    pacer = DualDescent(price=1e-9)
    success = np.array([[0.5, 0.9, 0.99], [0.5, 0.4, 0.3]])
    cost = np.array([[1.0, 2.0, np.inf], [1.0, 2.0, 3.0]])
    assert pacer.allowance_usd(success, cost, window(0, 1)) == pytest.approx(3.0)
    assert pacer.price == 1e-9


def test_the_price_rises_above_course_and_falls_below() -> None:
    pacer = DualDescent(price=0.05)
    pacer.allowance_usd(*easy(4), window(0, 1))
    pacer.allowance_usd(*easy(4), window(50, 2))
    risen = pacer.price
    assert risen > 0.05
    pacer.allowance_usd(*easy(4), window(50, 3))
    assert pacer.price < risen


def test_a_new_window_starts_with_the_price_of_the_last() -> None:
    pacer = DualDescent(price=0.05)
    pacer.allowance_usd(*easy(4), window(90, 9.9))
    pacer.allowance_usd(*easy(4), WindowState(100.0, 0.0, starts=10.0, ends=20.0, now=10.0))
    assert pacer.price == 0.05


def stream(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches whose need differs: in some a dear model helps a lot, in others hardly."""
    random = np.random.default_rng(seed)
    batches = []
    for _ in range(BATCHES):
        need = random.choice([0.05, 0.6])
        gain = need * random.uniform(0, 1, (BATCH, 2)).cumsum(axis=1) / 2
        success = np.column_stack([np.full(BATCH, 0.3), 0.3 + gain])
        batches.append((success, COSTS * random.lognormal(0, 0.3, (BATCH, 1))))
    return batches


def run(pacer: Pacer, batches: list[tuple[np.ndarray, np.ndarray]], budget: float) -> tuple[float, float]:
    """Expected good answers and USD of the stream; time is counted in requests."""
    good, spent = 0.0, 0.0
    for i, (success, cost) in enumerate(batches):
        state = WindowState(budget, spent, 0.0, BATCH * BATCHES, BATCH * i)
        allowance = pacer.allowance_usd(success, cost, state)
        result = assign(BatchProblem(success, cost, np.full(3, BATCH), allowance), Mip())
        assert result.status is not Status.infeasible
        rows = np.arange(BATCH)
        good += success[rows, result.model].sum()
        spent += cost[rows, result.model].sum()
    return good, spent


def best_in_hindsight(batches: list[tuple[np.ndarray, np.ndarray]], budget: float) -> float:
    success = np.concatenate([s for s, _ in batches])
    cost = np.concatenate([c for _, c in batches])
    return assign(BatchProblem(success, cost, np.full(3, len(success)), budget), Mip()).objective


@pytest.mark.parametrize("make", [DualDescent, Resolving])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_learned_price_keeps_the_course_and_gets_most_of_what_hindsight_would(
    seed: int, make: Callable[[], Pacer]
) -> None:
    batches = stream(seed)
    budget = 3.0 * BATCH * BATCHES
    capped, capped_usd = run(PerBatch(3.0), batches, budget)
    priced, priced_usd = run(make(), batches, budget)
    cheapest = 0.3 * BATCH * BATCHES
    best = best_in_hindsight(batches, budget)
    assert 0.99 * budget <= priced_usd <= budget
    assert capped_usd <= budget
    assert priced - cheapest > 1.3 * (capped - cheapest)
    assert priced - cheapest > 0.92 * (best - cheapest)


@pytest.mark.parametrize("make", [CarryOver, DualDescent, Resolving])
def test_the_course_is_kept_when_the_traffic_doubles(make: Callable[[], Pacer]) -> None:
    quiet = [(s[:8], c[:8]) for s, c in stream(4)[: BATCHES // 2]]
    batches = quiet + stream(5)[BATCHES // 2 :]
    budget, spent = 3.0 * sum(len(s) for s, _ in batches), 0.0
    pacer = make()
    for i, (success, cost) in enumerate(batches):
        allowance = pacer.allowance_usd(success, cost, WindowState(budget, spent, 0.0, BATCHES, i))
        result = assign(BatchProblem(success, cost, np.full(3, BATCH), allowance), Mip())
        assert result.status is not Status.infeasible
        spent += cost[np.arange(len(cost)), result.model].sum()
    assert 0.9 * budget <= spent <= budget
