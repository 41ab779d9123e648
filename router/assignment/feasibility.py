"""Whether any assignment keeps the limits: the cheapest one, or the row that cannot be kept and by how much.

All questions are the batch problem once more, with one more model that has slots for all: "not placed". Its
value is so low that the solver places every request it can, and among those placements takes the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.outcome import Infeasibility
from apportion.router.assignment.program import Program, Row, picked


@dataclass(frozen=True, eq=False)
class Feasibility:
    """model: (n_requests,) an assignment that keeps every limit, or None; reason: why there is none.

    Both are None when the time did not suffice to decide.
    """

    model: IntArray | None
    reason: Infeasibility | None


Best = Callable[[Program], tuple[IntArray, bool]]


def obviously_infeasible(program: Program) -> bool:
    """Whether sums alone show that no assignment exists."""
    lowest = float(np.where(np.isfinite(program.value), program.cost, np.inf).min(axis=1).sum())
    short = lowest > program.budget_limit or program.least_load.sum() > program.slots.sum()
    return bool(short or not math.isfinite(lowest) or any(_least(program, limit) < 0 for limit in program.limits))


def _least(program: Program, limit: Row) -> float:
    """What is left of a limit where every request takes as little of it as it can."""
    return limit.slack(np.where(np.isfinite(program.value), limit.use, np.inf).argmin(axis=1))


def examine(program: Program, best: Best) -> Feasibility:
    """The cheapest assignment, or the reason why there is none.

    best: solves a program, (model, whether it is proved optimal). Only a proof shows that there is no assignment.
    """
    homeless = int((~np.isfinite(program.value).any(axis=1)).sum())
    if homeless:
        message = f"allowed: {homeless} requests have no model that may answer them; allow one, or take them out"
        return Feasibility(None, Infeasibility("one_model", float(homeless), math.inf, message))
    allowed = np.isfinite(program.value)
    top = float(program.cost[allowed].max()) or 1.0
    # One more placement moves at most one request per model where all take as many slots and nothing else, else at
    # most all, each by at most the dearest cost.
    alike = program.load.min() == program.load.max() and not program.limits
    penalty = ((program.n_models if alike else program.n_requests) + 2) * top
    placing = with_refusal(program, np.where(allowed, -program.cost, -np.inf), -penalty * program.least_load)
    model, proved = best(replace(placing, cost=np.zeros_like(placing.cost), budget=math.inf))
    refused = model == program.n_models
    missing = float(program.least_load[refused].sum())
    cost = float(picked(program.cost, np.where(refused, -1, model)).sum())
    if not missing and cost <= program.budget_limit:
        return Feasibility(model, None)
    if not proved:
        return Feasibility(None, None)
    if missing:
        return Feasibility(None, _unplaced(program, int(refused.sum()), missing, best))
    short = cost - program.budget
    message = f"budget: the cheapest assignment costs {cost:.6g} USD, {short:.6g} more than allowed; raise it"
    return Feasibility(None, Infeasibility("budget", short, cost, message))


def _unplaced(program: Program, refused: int, missing: float, best: Best) -> Infeasibility | None:
    """What stands in the way of placing all: slots, one limit and by how much, or several together; None: undecided."""
    if program.limits:
        without = examine(replace(program, budget=math.inf, limits=()), best)
        if without.model is not None:
            return _short_limits(program, refused, best)
        return without.reason
    message = f"slots: {missing:g} more are needed; send fewer requests, wait, or add replicas"
    return Infeasibility("slots", missing, math.inf, message)


def _short_limits(program: Program, refused: int, best: Best) -> Infeasibility:
    """The limit that alone is too low, and what it lacks; else that several are."""
    for k, limit in enumerate(program.limits):
        # The least of this limit that an assignment takes which keeps slots and the other limits.
        others = program.limits[:k] + program.limits[k + 1 :]
        least = examine(replace(program, cost=limit.use, budget=math.inf, limits=others), best).model
        if least is None:
            continue
        short = float(picked(limit.use, least).sum()) - limit.at_most
        message = f"limits: {limit.name} is short by {short:.6g}; raise it, or send fewer requests"
        return Infeasibility("limits", short, math.inf, message)
    names = " and ".join(limit.name for limit in program.limits)
    message = f"limits: {names} leave no room for {refused} requests together; raise them, or send fewer requests"
    return Infeasibility("limits", float(refused), math.inf, message)


def with_refusal(program: Program, value: FloatArray, refusal: FloatArray) -> Program:
    """The program with one more model, free and without limit, on which a request is worth `refusal` (n,)."""
    none = np.zeros((program.n_requests, 1))
    engines = program.row_of_column
    return replace(
        program,
        value=np.hstack([value, refusal[:, None]]),
        cost=np.hstack([program.cost, none]),
        load=program.load if program.load.ndim == 1 else np.hstack([program.load, none + 1]),
        slots=np.append(program.slots, math.inf),
        row_of_column=None if engines is None else np.append(engines, program.n_engines),
        limits=tuple(replace(limit, use=np.hstack([limit.use, none])) for limit in program.limits),
    )


def admission(program: Program) -> Program:
    """As many requests as possible on a model: each placed one is worth 1, each refused one 0."""
    worth = np.where(np.isfinite(program.value), 1.0, -np.inf)
    return with_refusal(program, worth, np.zeros(program.n_requests))


def placed(program: Program, model: IntArray) -> BoolArray:
    """(n_requests,) True where the model is a real one of a program without refusal."""
    admitted: BoolArray = model < program.n_models
    return admitted
