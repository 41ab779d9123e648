"""From a chosen model per request to an `Assignment`: cost, spread, binding rows, gap."""

from __future__ import annotations

import math

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.outcome import Assignment, Infeasibility, Prices, Status, Termination
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import RELATIVE_SLACK, Program, Row, picked


def no_prices(problem: BatchProblem) -> Prices:
    return Prices(0.0, np.zeros(problem.n_engines), np.zeros(len(problem.limits)))


def budget_limit(problem: BatchProblem) -> float:
    """The budget with the rounding of a sum allowed for."""
    return problem.budget_usd * (1 + RELATIVE_SLACK)


def violation(problem: BatchProblem, model: IntArray) -> Infeasibility | None:
    """The first limit that the assignment breaks, or None."""
    cost = float(picked(problem.cost_usd, model).sum())
    if (model < 0).any():
        return Infeasibility("one_model", float((model < 0).sum()), math.inf, "some requests have no model")
    if problem.allowed is not None:
        bad = int((~problem.allowed[np.arange(len(model)), model]).sum())
        if bad:
            return Infeasibility(
                "one_model", float(bad), cost, f"allowed: {bad} requests are on models that may not answer them"
            )
    over = np.maximum(problem.use(model) - problem.slots, 0)
    if over.any():
        where = ", ".join(f"slots[{j}] by {over[j]}" for j in np.flatnonzero(over))
        return Infeasibility("slots", float(over.sum()), cost, f"slots: the choice exceeds {where}")
    if cost > budget_limit(problem):
        short = cost - problem.budget_usd
        return Infeasibility("budget", short, cost, f"budget: the choice costs {short:.6g} USD more than allowed")
    for limit in problem.limits:
        short = float(picked(limit.use, model).sum()) - limit.at_most
        if short > RELATIVE_SLACK * limit.at_most:
            return Infeasibility("limits", short, cost, f"limits: the choice exceeds {limit.name} by {short:.6g}")
    return None


def binding_rows(problem: BatchProblem, model: IntArray) -> tuple[str, ...]:
    """Limits that stand between some request and a model better for it than the one it has."""
    if (model < 0).any():
        return ()
    better: BoolArray = problem.value > picked(problem.value, model)[:, None]
    if problem.allowed is not None:
        better &= problem.allowed
    free = problem.slots - problem.use(model)
    program = Program.of(problem)
    names = ["budget"] if _stops(better, program.rows[0], model) else []
    full = (better & (program.more_load(np.arange(len(model)), model) > free[program.engine_of])).any(axis=0)
    names += [f"slots[{engine}]" for engine in sorted(set(program.engine_of[full].tolist()))]
    return (*names, *(f"limits[{limit.name}]" for limit in program.limits if _stops(better, limit, model)))


def _stops(better: BoolArray, row: Row, model: IntArray) -> bool:
    """Whether the row has too little left for some move of `better` (n_requests, n_models)."""
    slack = row.slack(model)
    return math.isfinite(slack) and bool((better & (row.use - picked(row.use, model)[:, None] > slack)).any())


def relative_gap(objective: float, bound: float) -> float:
    """(bound - objective) / |objective|, 0 when they agree, inf without a bound."""
    if bound == math.inf:
        return math.inf
    difference = max(bound - objective, 0.0)
    if difference <= 1e-12 * max(1.0, abs(bound)):
        return 0.0
    return difference / abs(objective) if objective else math.inf


def summarise(
    problem: BatchProblem,
    model: IntArray,
    strategy: str,
    *,
    value: FloatArray | None = None,
    objective: float | None = None,
    bound: float = math.inf,
    gap: float = 0.0,
    termination: Termination = Termination.heuristic,
    prices: Prices | None = None,
    infeasibility: Infeasibility | None = None,
) -> Assignment:
    """The `Assignment` of a choice.

    value: what the strategy maximised the sum of (default: the problem's); objective: if that is no sum over pairs.

    The status is `optimal` when the bound proves the choice within `gap`, `infeasible` when the choice
    breaks a limit or `infeasibility` is given. A termination by `gap` or `time_limit` follows what was proved.
    """
    infeasibility = infeasibility or violation(problem, model)
    if objective is None:
        objective = float(picked(problem.value if value is None else value, model).sum())
    reached = relative_gap(objective, bound)
    status = Status.feasible
    if infeasibility is not None:
        status = Status.infeasible
    elif reached <= gap:
        status = Status.optimal
        termination = Termination.gap
    elif termination is Termination.gap:
        termination = Termination.heuristic
    spread = 0.0
    if problem.cost_std_usd is not None:
        spread = float(np.sqrt(np.square(picked(problem.cost_std_usd, model)).sum()))
    return Assignment(
        model=model,
        status=status,
        termination=termination,
        objective=objective,
        bound=bound,
        gap=reached,
        binding=binding_rows(problem, model),
        expected_cost_usd=float(picked(problem.cost_usd, model).sum()),
        cost_std_usd=spread,
        expected_success=float(picked(problem.success, model).mean()),
        prices=prices or no_prices(problem),
        infeasibility=infeasibility,
        strategy=strategy,
    )


def refuse(problem: BatchProblem, strategy: str, reason: Infeasibility | None, *, proved: bool = True) -> Assignment:
    """The answer when there is no assignment: no request has a model, and the reason is given.

    reason: None when the time limit came before an assignment was found or shown not to exist.
    proved: whether the reason is shown to hold; else an assignment may exist.
    """
    termination = Termination.infeasible if proved else Termination.heuristic
    if reason is None:
        message = "time_limit_s: by then no assignment was found, nor shown not to exist; allow more time"
        reason, termination = Infeasibility("time_limit", math.inf, math.inf, message), Termination.time_limit
    nobody = np.full(problem.n_requests, -1, np.int64)
    return summarise(problem, nobody, strategy, termination=termination, infeasibility=reason)
