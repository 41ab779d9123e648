"""A job's plan goes by how fast models have been for it, not by how fast they could be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from apportion.deployments.jobs.cascading import Cascading
from apportion.deployments.jobs.expectations import Expected
from apportion.deployments.jobs.planning import Planner, Wishes
from apportion.deployments.jobs.progress import Progress
from apportion.deployments.wire.bulk import BulkState
from apportion.router.jobs.planning.plan import JobPlan
from apportion.router.jobs.planning.shortfall import Shortfall
from apportion.router.jobs.stages import HeldAnswers
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import LAYERS

MODELS = ("small", "large")


def planner(rows: int) -> Planner:
    """Rows of 100 tokens on either model."""
    table = np.full((len(LAYERS), rows, 2), 100.0, np.float32)
    table[0] = (0.4, 0.8)
    may = np.ones((rows, 2), np.bool_)
    return planner_of(table, may, MODELS)


def planner_of(table: np.ndarray, may: np.ndarray, models: tuple[str, ...]) -> Planner:
    rows = len(may)
    expected = Expected(table, may, np.zeros(rows, np.uint64), np.zeros(rows, np.bool_), np.full(rows, math.inf))
    return Planner(expected, models, Cascading(expected, models, HeldAnswers(rows), ()))


def test_what_interactive_requests_take_is_not_counted_on() -> None:
    state = BulkState(
        slots=dict.fromkeys(MODELS, 10),
        prices=(ModelPrice(1.0, 1.0), ModelPrice(2.0, 2.0)),
        tokens_per_s=dict.fromkeys(MODELS, 10.0),
    )
    job = planner(1000)
    pending = np.ones(1000, np.bool_)
    assert isinstance(job.plan(pending, state, left_usd=math.inf, left_s=600.0, best_effort=False), JobPlan)
    assert job.rates(state).tolist() == [100.0, 100.0]
    for row in range(100):  # in 1,000 s a tenth of what the slots could have generated
        job.ended(row, 1, 0.01, 100.0)
    job.look(state, [500, 500], 1000.0)
    assert (job.rates(state) < 75).all()
    pending[:100] = False
    short = job.plan(pending, state, left_usd=math.inf, left_s=500.0, best_effort=False)
    assert isinstance(short, Shortfall)
    assert short.missing == "deadline"


def test_variants_share_what_their_engine_generates_until_the_deadline() -> None:
    models, lengths = ("qwen@fast", "small", "qwen@think"), np.array([100.0, 100.0, 400.0])
    table = np.tile(lengths.astype(np.float32), (len(LAYERS), 1000, 1))
    table[0] = (0.5, 0.4, 0.8)
    every = np.ones((1000, 3), np.bool_)
    job = planner_of(table, every, models)
    speeds = {"qwen@fast": 10.0, "small": 5.0, "qwen@think": 10.0}
    state = BulkState({"qwen": 10, "small": 10}, (ModelPrice(1.0, 1.0),) * 3, speeds)
    assert job.rates(state).tolist() == [100.0, 50.0]
    plan = job.plan(every[:, 0], state, left_usd=math.inf, left_s=1000.0, best_effort=False)
    assert isinstance(plan, JobPlan)
    rows = np.bincount(plan.model_of_row, minlength=3)
    tokens = rows * lengths
    assert (rows > 0).all()
    assert 95_000 < tokens[0] + tokens[2] <= 100_000
    assert tokens[1] <= 50_000
    assert plan.seconds == pytest.approx(max(tokens[0] + tokens[2], 2 * tokens[1]) / 100)
    assert job.needed_s(state) == pytest.approx(plan.seconds)
    assert set(Progress(Wishes(), plan=plan).fields(models)["told"]["prices"]["tokens"]) <= {"qwen", "small"}
    for column in (0, 2):  # both variants together have half of the slots' tokens of 100 s
        for row in np.flatnonzero(plan.model_of_row == column)[: round(2500 / lengths[column])].tolist():
            job.ended(row, column, 0.0, lengths[column])
    for _ in range(50):
        job.look(state, [0, 9, 1], 100.0)
        job.ended(int(np.flatnonzero(plan.model_of_row == 0)[-1]), 0, 0.0, 5000.0)
    assert job.rates(state)[0] == pytest.approx(50.0, rel=0.1)
    job.look(state, [0, 0, 0], 1e6)
    assert job.rates(state)[0] == pytest.approx(50.0, rel=0.1), "no row waits for it, in either way"


def test_a_model_for_which_no_row_waits_is_as_fast_as_it_was() -> None:
    state = BulkState(dict.fromkeys(MODELS, 10), (ModelPrice(1.0, 1.0),) * 2, dict.fromkeys(MODELS, 10.0))
    job = planner(10)
    job.look(state, [0, 5], 1000.0)
    assert job.rates(state)[0] == 100.0
    assert job.rates(state)[1] < 100.0
