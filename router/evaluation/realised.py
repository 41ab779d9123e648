"""What an arm did: requests routed batch by batch by the estimates, score and cost as they really happened."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import Greedy, Prices, Strategy, assign
from apportion.router.assignment.problem import BatchProblem
from apportion.router.evaluation.batches import Setting, batch_problem
from apportion.router.evaluation.case import Case, Sample
from apportion.router.evaluation.curve import Curve


@dataclass(frozen=True, eq=False)
class Realised:
    """What an arm did at one dial: realised mean cost and score a request.

    batch_cost_usd, batch_planned_usd, batch_cap_usd: (n_batches,) each batch's realised cost, the cost expected of
    its choice beforehand, and its cap; empty for an arm without batches.
    """

    cost_usd: float
    score: float
    batch_cost_usd: FloatArray
    batch_planned_usd: FloatArray
    batch_cap_usd: FloatArray


Choose = Callable[[BatchProblem, int], IntArray]
"""From a batch and its number to the chosen models (n_requests,)."""


def curve_of(points: list[Realised]) -> Curve:
    """The curve through an arm's points."""
    return Curve.through(np.array([p.cost_usd for p in points]), np.array([p.score for p in points]))


def realise(sample: Sample, model: IntArray, caps: FloatArray, of_batch: IntArray) -> Realised:
    """Outcome of a choice (n_requests,): `of_batch` (n_requests,) says which batch a request was in."""
    rows = np.arange(len(sample))
    paid, planned = sample.paid_usd[rows, model], sample.estimates.cost_usd[rows, model]
    spent, expected = (np.bincount(of_batch, usd, len(caps)).astype(np.float64) for usd in (paid, planned))
    return Realised(float(paid.mean()), float(sample.score[rows, model].mean()), spent, expected, caps)


def batchwise(
    case: Case, setting: Setting, budget_usd: float, choose: Choose, *, cap_usd: float | None = None
) -> Realised:
    """Route the test requests batch by batch; a batch's problem has a cap of `budget_usd` a request.

    cap_usd: the cap a request against which the batches are reported, where `choose` is not given it to keep.
    """
    model, of_batch = np.zeros(len(case.test), np.int64), np.zeros(len(case.test), np.int64)
    caps = []
    for number, rows in enumerate(setting.rows(case.test, case.seed)):
        slots = setting.slots(len(rows), len(case.models))
        problem = batch_problem(case.test, rows, slots, budget_usd * len(rows))
        model[rows], of_batch[rows] = choose(problem, number), number
        caps.append((budget_usd if cap_usd is None else cap_usd) * len(rows))
    return realise(case.test, model, np.array(caps), of_batch)


def chosen(problem: BatchProblem, strategy: Strategy, number: int, warm: Prices | None = None) -> IntArray:
    """The strategy's choice; where its cap cannot be kept, what comes nearest."""
    answer = assign(problem, strategy, warm=warm, seed=number)
    return answer.model if answer.feasible else nearest(problem)


def nearest(problem: BatchProblem) -> IntArray:
    """What comes nearest to a cap that cannot be kept: the cheapest choice that slots allow."""
    unlimited = replace(problem, budget_usd=math.inf, success=np.zeros_like(problem.success))
    return assign(unlimited, Greedy()).model
