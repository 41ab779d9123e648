"""When a job is planned anew, and how much of the reserve it uses up when it is late."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apportion.router.jobs.planning.pace import Course, Share, haste, planned_s, usable_s
from apportion.router.jobs.planning.plan import JobPlan, plan_job
from apportion.router.jobs.planning.workload import Means, Workload

UP = np.ones(2, np.bool_)


def course(n: int = 100, budget_usd: float = math.inf) -> Course:
    """Rows of 100 tokens: 1 USD on the first model, 2 on the second, which is better."""
    workload = Workload(np.tile([0.4, 0.8], (n, 1)), np.tile([1.0, 2.0], (n, 1)), np.full(n, 100.0))
    plan = plan_job(workload, Means(budget_usd, 1e9, np.ones(2)))
    assert isinstance(plan, JobPlan)
    return Course(plan, workload, np.ones(n, np.bool_), UP)


def test_what_goes_as_planned_is_planned_anew_after_every_tenth_of_the_rows() -> None:
    job = course()
    for row in range(9):
        job.end(row, 2.0, 100.0)
        assert job.reason(UP) is None
    job.end(9, 2.0, 100.0)
    assert job.reason(UP) == "rows"


@pytest.mark.parametrize(
    ("usd", "tokens", "why"), [(3.0, 100.0, "spend"), (2.0, 150.0, "tokens"), (1.0, 50.0, "spend")]
)
def test_two_hundredths_off_the_whole_plan_is_a_reason_and_one_is_none(usd: float, tokens: float, why: str) -> None:
    job = course()
    for row in range(4):
        job.end(row, usd, tokens)
        assert job.reason(UP) is None
    job.end(4, usd, tokens)
    assert job.reason(UP) == why


def test_a_row_counts_once() -> None:
    job = course()
    for _ in range(50):
        job.end(3, 2.1, 100.0)
    assert job.reason(UP) is None
    assert job.needed_s(np.ones(2)) == 99 * 100


def test_a_model_gone_or_back_is_a_reason() -> None:
    assert course().reason(np.array([True, False])) == "models"


def test_the_rest_is_expected_to_cost_what_answers_have_cost() -> None:
    job = course(2000, budget_usd=3000.0)  # half of the rows on each model
    on_second = np.flatnonzero(job.plan.model_of_row == 1)
    for row in on_second[:600].tolist():
        job.end(row, 3.0, 50.0)
    corrected = job.corrected()
    assert corrected.cost_usd[0] == pytest.approx([1.0, 3.0], rel=0.04)
    assert corrected.lengths()[0] == pytest.approx([100.0, 50.0], rel=0.05)


def test_a_model_that_has_stopped_takes_for_ever() -> None:
    assert course().needed_s(np.array([1.0, 0.0])) == math.inf
    assert course().needed_s(np.array([0.0, 4.0])) == 100 * 100 / 4
    done = course(2)
    for row in range(2):
        done.end(row, 2.0, 100.0)
    assert done.needed_s(np.ones(2)) == 0.0


@pytest.mark.parametrize(
    ("needed_s", "left_s", "used_up"),
    [(100, 100, 0), (101, 100, 0.25), (107, 100, 0.5), (120, 100, 1.0), (500, 100, 1.0), (1, 0, 1.0), (9, math.inf, 0)],
)
def test_the_reserve_goes_in_steps_as_a_job_gets_late(needed_s: float, left_s: float, used_up: float) -> None:
    assert haste(needed_s, left_s) == used_up


def test_plans_leave_time_over_for_the_last_answers() -> None:
    assert usable_s(1000.0, 1000.0) == 950.0
    assert planned_s(1000.0, 1000.0) == pytest.approx(855.0)
    assert planned_s(50.0, 1000.0) == 0.0


def test_what_a_job_has_had_says_how_fast_it_is() -> None:
    share, most, of_slot = Share(3), np.array([10, 10, 0]), np.array([5.0, 5.0, 5.0])
    assert share.tokens_per_s(most, of_slot).tolist() == [50.0, 50.0, 0.0]
    for _ in range(100):
        share.see(np.array([4, 0, 0]), most, np.array([True, False, True]), 600.0)
    assert share.tokens_per_s(most, of_slot) == pytest.approx([20.0, 50.0, 0.0])
