"""A whole job against the same file in chunks, on recorded outcomes, by the order of the file."""

from __future__ import annotations

import math

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.assignment import Mip
from apportion.router.evaluation.batches import batch_problem
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.curve import Curve
from apportion.router.evaluation.planners import GAP
from apportion.router.evaluation.realised import chosen
from apportion.router.jobs.planning.plan import JobPlan, plan_job, replan_job
from apportion.router.jobs.planning.workload import Means, Workload
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Record

FRACTIONS = (0.1, 0.3, 0.5, 0.7)
CHUNK = 256
RESOLVES = 20
ORDERS = ("as filed", "shuffled")
CAPPED, CARRIED = "chunks, each with its cap", "chunks, carry-over"
WHOLE, RESOLVED = "whole job", "whole job, planned anew"
# Budgets at which the whole job is planned, so that it can be read at what another policy really spent.
CURVE = np.append(np.geomspace(0.5, 1.0, 7), np.geomspace(1.05, 1.4, 6))


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Score and spend of every policy, in both orders, at every budget."""
    records = []
    workload = Workload(case.test.estimates.success, case.test.estimates.cost_usd)
    for fraction in FRACTIONS[:2] if smoke else FRACTIONS:
        budget = fraction * float(case.mean_paid_usd[case.best]) * len(case.test)
        whole_at = _curve(case, workload, budget)
        for order_name in ORDERS:
            order = _order(case, order_name)
            found = {
                CAPPED: _chunks(case, order, budget, carry=False),
                CARRIED: _chunks(case, order, budget, carry=True),
                WHOLE: _whole(workload, budget),
                RESOLVED: _resolved(case, workload, order, budget),
            }
            for policy, model in found.items():
                named = {"order": order_name, "fraction": fraction, "policy": policy}
                records.append(named | _outcome(case, model, budget, whole_at))
    return records


def _order(case: Case, name: str) -> IntArray:
    """Rows as they stand in the table, which is grouped by subject; or at random."""
    if name == "shuffled":
        return np.random.default_rng([case.seed, 23]).permutation(len(case.test))
    return np.argsort(case.test_rows, kind="stable")


def _chunks(case: Case, order: IntArray, budget_usd: float, *, carry: bool) -> IntArray:
    """Chunk by chunk; with `carry` what a chunk really left, or overspent, is the next ones' evenly."""
    n = len(case.test)
    model, spent = np.zeros(n, np.int64), 0.0
    slots = np.full(len(case.models), n, np.int64)
    for start in range(0, n, CHUNK):
        rows = order[start : start + CHUNK]
        share = len(rows) / (n - start)
        cap = max(budget_usd - spent, 0.0) * share if carry else budget_usd * len(rows) / n
        model[rows] = chosen(batch_problem(case.test, rows, slots, cap), Mip(GAP), start)
        spent += float(case.test.paid_usd[rows, model[rows]].sum())
    return model


def _whole(workload: Workload, budget_usd: float) -> IntArray:
    plan = plan_job(workload, Means(budget_usd))
    return plan.model_of_row if isinstance(plan, JobPlan) else _cheapest(workload)


def _cheapest(workload: Workload) -> IntArray:
    return np.asarray(workload.cost_usd.argmin(axis=1))


def _resolved(case: Case, workload: Workload, order: IntArray, budget_usd: float) -> IntArray:
    """The whole job, its rest planned anew after every twentieth of the rows with the money that is really left."""
    plan = plan_job(workload, Means(budget_usd))
    if not isinstance(plan, JobPlan):
        return _cheapest(workload)
    model, pending, spent = plan.model_of_row, np.ones(len(workload), np.bool_), 0.0
    for rows in np.array_split(order, RESOLVES):
        pending[rows] = False
        spent += float(case.test.paid_usd[rows, model[rows]].sum())
        if not pending.any():
            break
        again = replan_job(workload, plan, pending, Means(max(budget_usd - spent, 0.0)))
        if isinstance(again, JobPlan):
            plan, model = again, again.model_of_row
        else:
            model = np.where(pending, _cheapest(workload), model)
    return model


def _curve(case: Case, workload: Workload, budget_usd: float) -> Curve:
    """Real score of the whole job by its real spend a request."""
    rows = np.arange(len(workload))
    models = [_whole(workload, budget_usd * factor) for factor in CURVE]
    return Curve.through(
        np.array([float(case.test.paid_usd[rows, model].mean()) for model in models]),
        np.array([float(case.test.score[rows, model].mean()) for model in models]),
    )


def _outcome(case: Case, model: IntArray, budget_usd: float, whole_at: Curve) -> Record:
    rows = np.arange(len(model))
    paid, score = case.test.paid_usd[rows, model], float(case.test.score[rows, model].mean())
    at_spend = float(np.interp(paid.mean(), whole_at.cost_usd, whole_at.score))
    return {
        "score": score / case.best_score,
        "less_whole": (score - at_spend) / case.best_score,
        "spend": float(paid.sum()) / budget_usd if budget_usd else math.nan,
    }
