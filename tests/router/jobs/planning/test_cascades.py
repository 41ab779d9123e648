"""Plans with cascades against trying all choices, and first answers that are kept or asked on with what is left."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import warm_up
from apportion.router.cascade.policies import columns
from apportion.router.jobs.planning.cascades import Stages, with_cascades
from apportion.router.jobs.planning.pace import Course
from apportion.router.jobs.planning.plan import JobPlan, plan_job
from apportion.router.jobs.planning.workload import Means, Workload
from apportion.router.jobs.stages import NOBODY
from tests.router.assignment.instances import every_choice
from tests.router.cascade.made import MODELS, held_out, pair_of

PAIR = pair_of(held_out(0, 0.9, n=1_500), 0, 2)
SPEED = np.array([40.0, 30.0, 25.0])


@pytest.fixture(scope="module", autouse=True)
def solvers_loaded() -> None:
    warm_up()


def job(seed: int, n: int, held: int = 0) -> tuple[Workload, Stages]:
    """Rows of which the last `held` have a first answer; lengths differ between models."""
    fresh, rng = held_out(seed, 0.9, n=n), np.random.default_rng(seed)
    tokens = np.ceil(np.exp(rng.normal(3, 0.5, (n, 3))))
    second = np.where(np.arange(n) >= n - held, 2, NOBODY)
    stages = Stages(second, rng.uniform(0.1, 0.9, n), rng.uniform(0.3, 0.9, n), np.full(n, math.inf))
    return Workload(fresh.success, fresh.cost_usd, tokens), stages


def plan_alone(workload: Workload, means: Means, stages: Stages) -> JobPlan:
    fresh = stages.second == NOBODY
    found = plan_job(workload.rows(fresh), means)
    assert isinstance(found, JobPlan)
    return found.among(fresh)


class Tried:
    """Every choice of a small job among three models, one policy and to keep a first answer."""

    def __init__(self, workload: Workload, stages: Stages, plain: JobPlan, means: Means) -> None:
        problem = means.posed(workload).problem
        policy = columns([PAIR], MODELS, problem, plain.prices)
        n, rows = len(workload), np.arange(len(workload))
        held = stages.second != NOBODY
        success = np.hstack([problem.success, policy.success, stages.sure[:, None]])
        success[held, 2] = stages.given[held]
        usd = np.hstack([problem.cost_usd, policy.cost_usd, np.zeros((n, 1))])
        may = np.ones((n, 5), np.bool_)
        may[held] = (False, False, True, False, True)
        may[~held, 4] = False
        choices = every_choice(n, 5)
        choices = choices[may[rows, choices].all(axis=1)]
        self.value = success[rows, choices].sum(axis=1)
        tokens = np.zeros((n, 5, 3))
        for model in range(3):
            tokens[:, model, model] = workload.lengths()[:, model]
        tokens[:, 3, 0] = workload.lengths()[:, 0]
        tokens[:, 3, 2] = policy.escalation[:, 0] * workload.lengths()[:, 2]
        seconds = (tokens[rows, choices].sum(axis=1) / SPEED).max(axis=1)
        keeps = usd[rows, choices].sum(axis=1) <= means.budget_usd * (1 + 1e-9)
        self.best = self.value[keeps & (seconds <= means.seconds * (1 + 1e-9))].max()
        self.policy = policy


@pytest.mark.parametrize("timed", [False, True])
def test_a_plan_with_cascades_is_the_best_of_all_choices(timed: bool) -> None:
    told = {"cascade": 0, "asked on": 0, "kept": 0}
    for seed in range(10):
        workload, stages = job(seed, 6, held=2)
        cheapest, dearest = workload.cost_usd[:4].min(axis=1).sum(), workload.cost_usd.max(axis=1).sum()
        means = Means(cheapest + (0.2 + 0.06 * seed) * (dearest - cheapest))
        if timed:
            means = replace(means, seconds=3.0 + 0.3 * seed, tokens_per_s=SPEED)
        plain = plan_alone(workload, means, stages)
        found = with_cascades(workload, means, plain, stages, [PAIR], MODELS)
        best = Tried(workload, stages, plain, means)
        held = stages.second != NOBODY
        if found is plain:
            assert best.best <= (plain.objective + stages.sure[held].sum()) * (1 + 2e-4)
            continue
        assert found.objective == pytest.approx(best.best, rel=2e-4)
        assert found.bound >= best.best - 1e-9
        assert found.planned_usd <= means.budget_usd * (1 + 1e-9)
        assert found.second_of_row is not None
        assert found.escalation is not None
        assert (found.model_of_row[~held] >= 0).all()
        cascades = np.flatnonzero(found.second_of_row == 2)
        assert found.escalation[cascades] == pytest.approx(best.policy.escalation[cascades, 0])
        if timed:
            assert found.seconds is not None
            assert found.seconds <= means.seconds * (1 + 1e-9)
            course = Course(found, workload, np.ones(6, np.bool_), np.ones(3, np.bool_))
            assert course.needed_s(SPEED) == pytest.approx(found.seconds)
        told["cascade"] += len(cascades)
        told["asked on"] += int((found.model_of_row[held] == 2).sum())
        told["kept"] += int((found.model_of_row[held] == -1).sum())
        counts = found.by_model(MODELS)
        assert counts.get("small>large", 0) == len(cascades)
        assert sum(counts.values()) == (found.model_of_row >= 0).sum()
    assert min(told.values()) > 0, told


def test_first_answers_are_asked_on_with_exactly_what_is_left() -> None:
    """The second plan after the first: what keeps its answer costs nothing, and no more is spent than there is."""
    workload, stages = job(1, 200, held=200)
    for share in (0.0, 0.1, 0.5, 1.0):
        left_usd = share * float(workload.cost_usd[:, 2].sum())
        plain = plan_alone(workload, Means(left_usd), stages)
        found = with_cascades(workload, Means(left_usd), plain, stages, [], MODELS)
        asked = found.model_of_row == 2
        assert workload.cost_usd[asked, 2].sum() <= left_usd * (1 + 1e-9)
        gain = stages.given - stages.sure
        assert set(np.unique(found.model_of_row)) <= {-1, 2}
        # All cost the same here: those that gain most are asked on, as many as there is money for.
        most = round(share * 200)
        best = np.sort(gain[gain > 0])[::-1][:most].sum()
        assert gain[asked].sum() == pytest.approx(best, rel=1e-3)


def test_rows_that_may_have_one_answer_have_one() -> None:
    workload, stages = job(2, 40)
    means = Means(0.3 * float(workload.cost_usd[:, 2].sum()))
    plain = plan_alone(workload, means, stages)
    every = with_cascades(workload, means, plain, stages, [PAIR], MODELS)
    assert every.second_of_row is not None
    taken = every.second_of_row == 2
    assert taken.sum() > 5
    none = with_cascades(workload, means, plain, replace(stages, most_usd=np.zeros(40)), [PAIR], MODELS)
    assert none is plain
    nobody = with_cascades(workload.on(np.array([True, True, False])), means, plain, stages, [PAIR], MODELS)
    assert nobody.second_of_row is None or (nobody.second_of_row == NOBODY).all()


def test_rows_without_a_place_and_models_that_nobody_knows_change_nothing() -> None:
    workload, stages = job(3, 10)
    means = Means(float(workload.cost_usd[:, 2].sum()))
    plain = plan_alone(workload, means, stages)
    assert with_cascades(workload, means, plain, stages, [], MODELS) is plain
    assert with_cascades(workload, means, plain, stages, [PAIR], ("a", "b", "c")) is plain
    left_out = replace(plain, model_of_row=np.full(10, -1))
    assert with_cascades(workload, means, left_out, stages, [PAIR], MODELS) is left_out
