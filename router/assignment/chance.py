"""The budget row under uncertain costs: kept with a chosen probability.

    sum_ij cost_usd x + z sqrt(sum_ij cost_std_usd^2 x)  <=  budget_usd,     z = normal quantile of the confidence

Costs are taken as independent, and their sum as normal, which it nearly is from some thirty requests on. For binary
x the variance V under the root is linear in x, and the root is concave in V. A tangent at any t > 0 lies above it:

    sum_ij (cost + z var / (2 sqrt t)) x  <=  budget - z sqrt(t) / 2

so an answer that keeps the tangent's row keeps the chance row. The next tangent is drawn at the answer's own
variance, where it is exact: the answer keeps it, so the objective never falls. A chord over all possible
variances lies below the root and gives the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .outcome import Infeasibility, Prices
from .problem import FloatArray, IntArray
from .program import Program, picked
from .solver import Goal, favourite, solve

MAX_TANGENTS = 8


@dataclass(frozen=True, eq=False)
class Chance:
    """model: (n_requests,) or None; bound: proved upper bound on the objective."""

    model: IntArray | None
    bound: float
    prices: Prices
    timed_out: bool
    reason: Infeasibility | None


def solve_chance(
    program: Program, variance: FloatArray, z: float, goal: Goal, warm: Prices | None, seed: int
) -> Chance:
    """A good assignment under the chance row, and a bound.

    variance: (n_requests, n_models) of the cost, USD^2; z: standard deviations of the cost to reserve, >= 0.
    Without model and with a reason: none exists, or none was found (the message says which).
    """
    relaxed = solve(_chord(program, variance, z), goal, warm, seed)
    if relaxed.model is None:
        return Chance(None, -math.inf, relaxed.prices, relaxed.timed_out, relaxed.reason)
    least = float(variance.max()) * 1e-9
    at = float(picked(variance, relaxed.model).sum())
    model, worth, safe = None, -math.inf, False
    for _ in range(MAX_TANGENTS):
        solved = solve(_tangent(program, variance, z, max(at, least)), goal, relaxed.prices, seed)
        if solved.model is not None and program.worth(solved.model) > worth:
            model, worth = solved.model, program.worth(solved.model)
            at = float(picked(variance, model).sum())
        elif model is not None or safe or goal.late:
            break
        else:
            at, safe = _safest_variance(program, variance, z, max(at, least)), True
    reason = None if model is not None else _short(program, variance, z, max(at, least))
    return Chance(model, max(relaxed.bound, worth), relaxed.prices, goal.late, reason)


def reserved_cost(program: Program, variance: FloatArray, z: float, model: IntArray) -> float:
    """Expected cost of a choice and z standard deviations of it, USD."""
    return float(picked(program.cost, model).sum() + z * math.sqrt(picked(variance, model).sum()))


def _linear(program: Program, variance: FloatArray, slope: float, reserve: float) -> Program:
    """The program with `reserve + slope x variance` set aside in its budget row."""
    budget = max(program.budget - reserve, 0.0)
    return replace(program, cost=program.cost + slope * variance, budget=budget)


def _tangent(program: Program, variance: FloatArray, z: float, at: float) -> Program:
    root = math.sqrt(at)
    return _linear(program, variance, z / (2 * root) if root else 0.0, z * root / 2)


def _chord(program: Program, variance: FloatArray, z: float) -> Program:
    """The line through the root at the least and at the largest variance of any assignment."""
    allowed = np.isfinite(program.value)
    low = math.sqrt(np.where(allowed, variance, np.inf).min(axis=1).sum())
    high = math.sqrt(np.where(allowed, variance, 0.0).max(axis=1).sum())
    if not math.isfinite(low) or low + high == 0:
        return program
    return _linear(program, variance, z / (low + high), z * low * high / (low + high))


def _cheapest(program: Program, variance: FloatArray, z: float, at: float) -> IntArray:
    tangent = _tangent(program, variance, z, at)
    return favourite(replace(tangent, value=np.where(np.isfinite(program.value), -tangent.cost, -np.inf)))


def _safest_variance(program: Program, variance: FloatArray, z: float, at: float) -> float:
    """Variance of a choice that needs the least budget with its reserve, slots aside."""
    for _ in range(MAX_TANGENTS):
        at = float(picked(variance, _cheapest(program, variance, z, at)).sum()) or at
    return at


def _short(program: Program, variance: FloatArray, z: float, at: float) -> Infeasibility:
    cheapest = _cheapest(program, variance, z, at)
    needed = reserved_cost(program, variance, z, cheapest)
    message = (
        f"No assignment was found that keeps the budget with the reserve for uncertain costs; about {needed:.6g} "
        "USD would do without slots: raise the budget, add slots or lower the confidence."
    )
    cost = float(picked(program.cost, cheapest).sum())
    return Infeasibility("budget", max(needed - program.budget, 0.0), cost, message)
