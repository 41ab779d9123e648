"""What a policy is worth, and its second stage, beside trying everything."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from apportion.router.assignment import BatchProblem, Mip, Prices, assign
from apportion.router.assignment.problem import ENDLESS, Limit
from apportion.router.cascade.policies import columns, offered, second_stage
from tests.router.cascade.made import MODELS, held_out, pair_of

ROWS = held_out(0, 0.8, n=1_500)
PAIR = pair_of(ROWS, 0, 2)
PRICES = Prices(200.0, np.array([0.0, 0.0, 0.02]))


def batch(n: int, budget_usd: float = float("inf"), seed: int = 3) -> BatchProblem:
    fresh = held_out(seed, 0.8, n=n)
    return BatchProblem(fresh.success, fresh.cost_usd, np.full(3, n), budget_usd)


def test_a_policy_is_worth_what_trying_all_signals_finds() -> None:
    problem, draws = batch(6), 200_000
    verifier, rng = PAIR.verifier, np.random.default_rng(0)
    policies = columns([PAIR], MODELS, problem, PRICES)

    for row, (prior, _, second) in enumerate(problem.success):
        right = rng.random(draws) < prior
        # Signals whose evidence is spread as the pair says, whatever their single numbers.
        intercept, slope, shift, of_wrong, of_right = verifier.spread
        evidence = intercept + slope * logit(prior) + shift * right
        evidence += rng.normal(size=draws) * np.where(right, of_right, of_wrong)
        direction = verifier.coefficients[2:]
        signals = evidence[:, None] * direction / (direction @ direction)
        sure = PAIR.posterior(np.full(draws, prior), signals)
        charge = 200 * problem.cost_usd[row, 2] + 0.02
        asks = sure < PAIR.second_given(np.full(draws, second), sure) - charge
        second_right = rng.random(draws) < expit(logit(second) + PAIR.shifts[right.astype(int)])

        assert policies.escalation[row, 0] == pytest.approx(asks.mean(), abs=0.005)
        assert policies.success[row, 0] == pytest.approx(np.where(asks, second_right, right).mean(), abs=0.005)
        spent = problem.cost_usd[row, 0] + asks.mean() * problem.cost_usd[row, 2]
        assert policies.cost_usd[row, 0] == pytest.approx(spent, rel=0.02)


def test_policies_share_the_slots_of_the_first() -> None:
    problem = replace(batch(40), slots=np.array([7, 0, 3]))
    policies = columns([PAIR], MODELS, problem, PRICES)
    few = problem.subset(np.arange(10))
    answer = assign(offered(few, columns([PAIR], MODELS, few, PRICES), PRICES))

    assert answer.feasible
    counts = np.bincount(answer.model, minlength=4)
    assert counts[0] + counts[3] <= 7
    assert counts[2] <= 3
    assert not assign(offered(problem, policies, PRICES)).feasible


def test_everything_a_problem_has_is_told_of_policies_too() -> None:
    problem, rng = batch(5), np.random.default_rng(0)
    allowed = np.ones((5, 3), np.bool_)
    allowed[1, 2] = False
    samples = np.clip(problem.success + rng.normal(0, 0.002, (4, 5, 3)), 0, 1)
    rich = replace(
        problem,
        allowed=allowed,
        sequences=np.tile([1, 2, 3], (5, 1)),
        success_samples=samples,
        success_std=np.full((5, 3), 0.1),
        cost_std_usd=np.full((5, 3), 1e-4),
        limits=(Limit("latency", np.tile([1.0, 2.0, 10.0], (5, 1)), 30.0),),
    )
    policies = columns([PAIR], MODELS, rich, PRICES)
    found = offered(rich, policies, PRICES)

    assert found.allowed is not None
    assert found.allowed[:, 3].tolist() == [True, False, True, True, True]
    assert found.sequences is not None
    assert found.sequences[:, 3].tolist() == [1] * 5
    assert found.limits[0].use[:, 3] == pytest.approx(1 + 10 * policies.escalation[:, 0])
    assert found.success_samples is not None
    assert found.success_samples.shape == (4, 5, 4)
    assert found.success_samples[:, :, 3].mean(axis=0) == pytest.approx(policies.success[:, 0], abs=0.01)
    assert found.cost_std_usd is not None
    assert (found.cost_std_usd[1:, 3] > 1.1e-4).all()
    assert found.engine_of.tolist() == [0, 1, 2, 0]


def test_pairs_of_models_that_are_not_there_are_left_out() -> None:
    problem = batch(5)
    two = BatchProblem(problem.success[:, :2], problem.cost_usd[:, :2], problem.slots[:2])

    policies = columns([PAIR], MODELS[:2], two, Prices(1.0, np.zeros(2)))

    assert policies.success.shape == (5, 0)
    assert offered(two, policies, Prices(1.0, np.zeros(2))).n_models == 2


@pytest.mark.parametrize("seed", range(6))
def test_the_second_stage_is_the_best_of_all_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 9
    problem = BatchProblem(
        rng.random((n, 2)), rng.uniform(1, 5, (n, 2)), np.array([9, 4]), budget_usd=float(rng.uniform(4, 12))
    )
    sure, given, second = rng.random(n), rng.random(n), rng.integers(0, 2, n)
    stage = second_stage(problem, sure, given, second)
    answer = assign(stage, Mip(gap=1e-9))

    ways = np.array(np.meshgrid(*[[False, True]] * n)).reshape(n, -1).T
    spent = ways @ problem.cost_usd[np.arange(n), second]
    fits = (spent <= problem.budget_usd) & (ways[:, second == 1].sum(axis=1) <= 4)
    best = (np.where(ways, given, sure).sum(axis=1))[fits].max()
    assert answer.objective == pytest.approx(best)
    assert answer.expected_cost_usd <= problem.budget_usd
    assert set(answer.model) <= {0, 1, 2}
    assert stage.slots[2] == ENDLESS


def test_six_policies_of_4096_requests_take_milliseconds() -> None:
    problem = batch(4_096)
    pairs = [PAIR] * 6
    columns(pairs, MODELS, problem, PRICES)
    taken_s = []
    for _ in range(7):
        started = time.process_time()
        columns(pairs, MODELS, problem, PRICES)
        taken_s.append(time.process_time() - started)

    assert min(taken_s) < 0.04
