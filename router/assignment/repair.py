"""Make a choice keep slots and budget, or prove that no choice can."""

from __future__ import annotations

import time

import numpy as np

from .model import batch_model, solve_model
from .moves import cut_cost, fit_slots, upgrade
from .outcome import Assignment, Infeasibility, Prices
from .problem import BatchProblem, IntArray
from .summary import refuse, summarise, violation


def enforce(problem: BatchProblem, assignment: Assignment) -> Assignment:
    """The assignment, moved at little loss until slots, budget and allow-list hold strictly.

    Comes back `infeasible`, with the reason, only when no assignment keeps every limit.
    """
    if violation(problem, assignment.model) is None:
        return assignment
    return enforce_choice(
        problem, assignment.model, assignment.strategy, time.perf_counter(), prices=assignment.prices
    )


def enforce_choice(
    problem: BatchProblem, model: IntArray, name: str, started: float, *, prices: Prices | None = None
) -> Assignment:
    """`enforce` for a bare choice (n_requests,), -1 where a request has no model yet."""
    if violation(problem, model) is not None:
        model = _move(problem, model)
        if violation(problem, model) is not None:
            cheapest = cheapest_choice(problem)
            if isinstance(cheapest, Infeasibility):
                return refuse(problem, name, started, cheapest)
            model = upgrade(problem, problem.value, cheapest)
    return summarise(problem, model, name, started, prices=prices)


def cheapest_choice(problem: BatchProblem) -> IntArray | Infeasibility:
    """(n_requests,) the least costly assignment that keeps the slots, or why no assignment is possible."""
    keep = np.ones(problem.success.shape, np.bool_) if problem.allowed is None else problem.allowed
    solution = solve_model(batch_model(problem, keep, value=-problem.cost_usd, budget_usd=np.inf), gap=1e-6)
    if solution.values is None or not keep.any(axis=1).all():
        return Infeasibility("slots", 0.0, np.inf, "No assignment keeps every limit.")
    chosen = np.zeros(keep.shape)
    chosen[keep] = solution.values
    model: IntArray = chosen.argmax(axis=1)
    broken = violation(problem, model)
    return model if broken is None else broken


def _move(problem: BatchProblem, model: IntArray) -> IntArray:
    if problem.allowed is not None:
        forbidden = (model >= 0) & ~problem.allowed[np.arange(len(model)), model]
        model = np.where(forbidden, -1, model)
    return cut_cost(problem, problem.value, fit_slots(problem, problem.value, model))
