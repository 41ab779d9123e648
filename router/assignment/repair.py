"""Make a choice keep slots, budget and limits, or prove that no choice can."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.moves import fit_rows, fit_slots, upgrade
from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program
from apportion.router.assignment.solver import Goal, feasible
from apportion.router.assignment.summary import refuse, summarise, violation


def enforce(problem: BatchProblem, assignment: Assignment) -> Assignment:
    """The assignment, moved at little loss until slots, budget, limits and allow-list hold strictly.

    Comes back `infeasible`, with the reason, only when no assignment keeps every limit.
    """
    if violation(problem, assignment.model) is None:
        return assignment
    moved = enforce_choice(problem, assignment.model, assignment.strategy, prices=assignment.prices)
    return replace(moved, wall_time_s=assignment.wall_time_s)


def enforce_choice(
    problem: BatchProblem,
    model: IntArray,
    name: str,
    *,
    prices: Prices | None = None,
    worth: FloatArray | None = None,
    time_limit_s: float | None = None,
) -> Assignment:
    """`enforce` for a bare choice (n_requests,), -1 where a request has no model yet.

    Where moves get stuck, prices, reduction and HiGHS look for an assignment that keeps the limits.

    worth: (n_requests, n_models) by which the loss of leaving an overfull model is measured; default the value.
    time_limit_s: of that search.
    """
    goal = Goal.within(time_limit_s)
    if violation(problem, model) is not None:
        program = Program.of(problem)
        forbidden = (model >= 0) & ~np.isfinite(program.value[np.arange(len(model)), model])
        model = fit_rows(program, fit_slots(program, np.where(forbidden, -1, model), worth))
        if not program.keeps(model):
            examined = feasible(program, goal)
            if examined.model is None:
                return refuse(problem, name, examined.reason)
            model = upgrade(program, examined.model)
    return summarise(problem, model, name, prices=prices)
