"""A job's plan goes by how fast models have been for it, not by how fast they could be."""

from __future__ import annotations

import math

import numpy as np

from apportion.deployments.jobs.expectations import Expected
from apportion.deployments.jobs.planning import Planner
from apportion.deployments.wire.bulk import BulkState
from apportion.router.jobs.planning.plan import JobPlan
from apportion.router.jobs.planning.shortfall import Shortfall
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import LAYERS

MODELS = ("small", "large")


def planner(rows: int) -> Planner:
    """Rows of 100 tokens on either model."""
    table = np.full((len(LAYERS), rows, 2), 100.0, np.float32)
    table[0] = (0.4, 0.8)
    may = np.ones((rows, 2), np.bool_)
    return Planner(Expected(table, may, np.zeros(rows, np.uint64), np.zeros(rows, np.bool_)), MODELS)


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
        job.ended(row, 0.01, 100.0)
    job.look(state, [500, 500], 1000.0)
    assert (job.rates(state) < 75).all()
    pending[:100] = False
    short = job.plan(pending, state, left_usd=math.inf, left_s=500.0, best_effort=False)
    assert isinstance(short, Shortfall)
    assert short.missing == "deadline"


def test_a_model_for_which_no_row_waits_is_as_fast_as_it_was() -> None:
    state = BulkState(dict.fromkeys(MODELS, 10), (ModelPrice(1.0, 1.0),) * 2, dict.fromkeys(MODELS, 10.0))
    job = planner(10)
    job.look(state, [0, 5], 1000.0)
    assert job.rates(state)[0] == 100.0
    assert job.rates(state)[1] < 100.0
