"""The plan of a whole job: which model answers which row, proved; or the least money and time that would do.

One certified problem over all rows, so that a plan does not depend on the order of the file: budget, tokens that each
engine can generate until the deadline, and who may answer what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import Assignment, BatchProblem, Prices, Status, assign, largest_feasible_subset
from apportion.router.assignment.program import RELATIVE_SLACK
from apportion.router.jobs.planning.least import cheapest_usd, least_seconds
from apportion.router.jobs.planning.options import PLAIN, PlanOptions, search_limit_s
from apportion.router.jobs.planning.shortfall import Shortfall, shortfall
from apportion.router.jobs.planning.workload import Means, Posed, Workload


@dataclass(frozen=True, eq=False)
class JobPlan:
    """Which model answers which row.

    model_of_row: (N,) index of the model, -1: left out; prices: of money and, per engine, of a token; bound: no plan of
    the rows that are not left out is worth more; objective: expected good answers; status, binding: as of `Assignment`,
    slots being tokens where there is a deadline; planned_std_usd: spread of the cost, 0: unknown; seconds: that the
    slowest engine needs, None without a deadline. second_of_row: (N,) index of the model that is asked on where the
    row's own is not sure enough, -1: none; escalation: (N,) P(it is asked); None: there are no cascades.
    """

    model_of_row: IntArray
    prices: Prices
    bound: float
    objective: float
    gap: float
    status: Status
    binding: tuple[str, ...]
    planned_usd: float
    planned_std_usd: float
    seconds: float | None
    second_of_row: IntArray | None = None
    escalation: FloatArray | None = None

    def by_model(self, models: Sequence[str]) -> dict[str, int]:
        """Rows that are planned on each model, and on each cascade that any is planned on, as `first>second`."""
        second = np.full(len(self.model_of_row), -1) if self.second_of_row is None else self.second_of_row
        alone = self.model_of_row[(self.model_of_row >= 0) & (second < 0)]
        counts = dict(zip(models, np.bincount(alone, minlength=len(models)).tolist(), strict=True))
        both = np.stack([self.model_of_row, second])[:, second >= 0]
        found, rows = np.unique(both, axis=1, return_counts=True)
        for (a, b), count in zip(found.T.tolist(), rows.tolist(), strict=True):
            counts[f"{models[a]}>{models[b]}"] = count
        return counts

    def among(self, rows: BoolArray) -> JobPlan:
        """The same plan told of all rows, of which these, by a mask (N,), are its own."""

        def spread(values: Any, otherwise: float) -> Any:
            if values is None:
                return None
            whole = np.full(len(rows), otherwise, values.dtype)
            whole[rows] = values
            return whole

        return replace(
            self,
            model_of_row=spread(self.model_of_row, -1),
            second_of_row=spread(self.second_of_row, -1),
            escalation=spread(self.escalation, 0.0),
        )

    def later_tokens(self, workload: Workload) -> FloatArray | None:
        """(E,) tokens that are expected of second answers; None: there are no cascades."""
        if self.second_of_row is None or self.escalation is None:
            return None
        rows = np.flatnonzero(self.second_of_row >= 0)
        second = self.second_of_row[rows]
        tokens = self.escalation[rows] * workload.lengths()[rows, second]
        return np.bincount(workload.engine_of[second], weights=tokens, minlength=workload.n_engines).astype(np.float64)

    @property
    def left_out(self) -> IntArray:
        """Indices of the rows that are not planned."""
        return np.flatnonzero(self.model_of_row < 0)


def plan_job(
    workload: Workload,
    means: Means,
    options: PlanOptions = PLAIN,
    *,
    warm: Prices | None = None,
) -> JobPlan | Shortfall:
    """The best plan of all rows, or of as many as possible if `options` say so; else what is missing.

    Args:
        warm: prices of an earlier plan of the job.
    """
    if not len(workload):
        return _nothing(workload.n_engines, means)
    posed = means.posed(workload)
    reachable = _reachable(posed.problem)
    if not reachable.all():
        if options.best_effort:
            return _placed(workload, means, reachable, options, warm)
        rows = int((~reachable).sum())
        return Shortfall("models", f"models: {rows} rows have no model that may answer them; allow one", rows=rows)
    reason = None
    if _enough(posed, means):
        answer = assign(posed.problem, options.strategy, warm=warm)
        if answer.feasible:
            return _planned(workload, means, answer)
        reason = answer.infeasibility
    if options.best_effort:
        admitted = largest_feasible_subset(posed.problem, time_limit_s=search_limit_s(len(workload)))
        if admitted.all():  # to within rounding they are all feasible, and yet there was no plan of them
            admitted[np.where(workload.may, workload.cost_usd, np.inf).min(axis=1).argmax()] = False
        return _placed(workload, means, admitted, options, warm)
    return shortfall(posed, means, options.strategy, reason)


def replan_job(
    workload: Workload,
    before: JobPlan,
    pending: BoolArray,
    left: Means,
    options: PlanOptions = PLAIN,
) -> JobPlan | Shortfall:
    """The plan with the rows that are done or under way kept, and the pending ones planned with what is left.

    Objective, bound, cost and time are those of the pending rows.

    Args:
        pending: (N,) rows that may still be moved.
        left: money that is neither spent nor held by rows under way, and time from now.
    """
    found = plan_job(workload.rows(pending), left, options, warm=before.prices)
    if isinstance(found, Shortfall):
        return found
    model = before.model_of_row.copy()
    model[pending] = found.model_of_row
    return replace(found, model_of_row=model)


def as_far_as_money_goes(workload: Workload, plan: JobPlan, budget_usd: float) -> JobPlan:
    """The plan with the rows that it leaves out for want of time on the models that cost least, while money lasts.

    A job that has begun gives no row up before its time is over: it may go faster than was expected.
    """
    out = plan.left_out
    if not len(out):
        return plan
    cost = np.where(workload.may[out], workload.cost_usd[out], np.inf)
    least = cost.min(axis=1)
    order = np.argsort(least, kind="stable")
    paid = order[np.cumsum(least[order]) <= (budget_usd - plan.planned_usd) * (1 + RELATIVE_SLACK)]
    paid = paid[np.isfinite(least[paid])]
    model = plan.model_of_row.copy()
    model[out[paid]] = cost[paid].argmin(axis=1)
    return replace(plan, model_of_row=model, planned_usd=plan.planned_usd + float(least[paid].sum()))


def _reachable(problem: BatchProblem) -> BoolArray:
    if problem.allowed is None:
        return np.ones(problem.n_requests, np.bool_)
    return np.asarray(problem.allowed.any(axis=1))


def _enough(posed: Posed, means: Means) -> bool:
    """Whether the relaxation has a plan: spares the solver from proving that there is none."""
    if posed.speed is None:
        return cheapest_usd(posed.problem) <= means.budget_usd * (1 + RELATIVE_SLACK)
    return least_seconds(posed.problem, posed.speed, enough_s=means.seconds).bound <= means.seconds * (
        1 + RELATIVE_SLACK
    )


def _placed(
    workload: Workload, means: Means, admitted: BoolArray, options: PlanOptions, warm: Prices | None
) -> JobPlan | Shortfall:
    """The plan of the admitted rows; the others are left out."""
    found = plan_job(workload.rows(admitted), means, options, warm=warm)
    if isinstance(found, Shortfall):
        return found
    model = np.full(len(workload), -1)
    model[admitted] = found.model_of_row
    return replace(found, model_of_row=model)


def _planned(workload: Workload, means: Means, answer: Assignment) -> JobPlan:
    seconds = None
    if means.timed and means.tokens_per_s is not None:
        seconds = workload.seconds(answer.model, means.tokens_per_s)
    return JobPlan(
        answer.model, answer.prices, answer.bound, answer.objective, answer.gap, answer.status, answer.binding,
        answer.expected_cost_usd, answer.cost_std_usd, seconds,
    )  # fmt: skip


def _nothing(n_engines: int, means: Means) -> JobPlan:
    prices = Prices(0.0, np.zeros(n_engines), np.zeros(len(means.limits)))
    seconds = 0.0 if means.timed else None
    return JobPlan(np.zeros(0, np.int64), prices, 0.0, 0.0, 0.0, Status.optimal, (), 0.0, 0.0, seconds)
