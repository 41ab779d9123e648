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

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.outcome import Infeasibility, Prices
from apportion.router.assignment.program import Program, picked
from apportion.router.assignment.solver import Goal, solve

MAX_TANGENTS = 8


@dataclass(frozen=True, eq=False)
class Chance:
    """model: (n_requests,) or None; bound: proved upper bound on the objective.

    reason: why there is no model, None when time ran out; proved: whether the reason is shown to hold.
    """

    model: IntArray | None
    bound: float
    prices: Prices
    timed_out: bool
    reason: Infeasibility | None = None
    proved: bool = True


def solve_chance(
    program: Program, variance: FloatArray, z: float, goal: Goal, warm: Prices | None, seed: int
) -> Chance:
    """A good assignment under the chance row, and a bound.

    variance: (n_requests, n_models) of the cost, USD^2; z: standard deviations of the cost to reserve, >= 0.
    """
    relaxed = solve(_chord(program, variance, z), goal, warm, seed)
    if relaxed.model is None:
        return Chance(None, -math.inf, relaxed.prices, relaxed.timed_out, relaxed.reason)
    model = _climb(program, variance, z, relaxed.model, goal, relaxed.prices, seed)
    if model is None:
        safest = _safest(program, variance, z, relaxed.model, goal, seed)
        if reserved_cost(program, variance, z, safest) > program.budget_limit:
            reason = None if goal.late else _short(program, variance, z, safest)
            return Chance(None, relaxed.bound, relaxed.prices, goal.late, reason, proved=False)
        model = _climb(program, variance, z, safest, goal, relaxed.prices, seed)
        model = safest if model is None else model
    return Chance(model, max(relaxed.bound, program.worth(model)), relaxed.prices, goal.late)


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


def _climb(
    program: Program, variance: FloatArray, z: float, start: IntArray, goal: Goal, prices: Prices, seed: int
) -> IntArray | None:
    """The best answer under tangents, the first one at the variance of `start`; None if none keeps that one."""
    model, worth, at = None, -math.inf, _total(variance, start)
    for _ in range(MAX_TANGENTS):
        solved = solve(_tangent(program, variance, z, at), goal, prices, seed)
        if solved.model is None or program.worth(solved.model) <= worth:
            break
        model, worth, at = solved.model, program.worth(solved.model), _total(variance, solved.model)
        if goal.late:
            break
    return model


def _safest(program: Program, variance: FloatArray, z: float, start: IntArray, goal: Goal, seed: int) -> IntArray:
    """A choice within the slots that needs as little budget with its reserve as tangents can find.

    What a tangent's cheapest answer really needs is no more than at the tangent, so each is at least as safe as the
    one before. From two starts, as the need is concave in the variance: the given one, and the least variance.
    """
    allowed = np.isfinite(program.value)
    exact = Goal(gap=1e-9, absolute=0.0, deadline=goal.deadline)
    safest, least = start, reserved_cost(program, variance, z, start)
    lowest = np.where(allowed, variance, np.inf).argmin(axis=1)
    for at in (_total(variance, start), _total(variance, lowest)):
        last = math.inf
        for _ in range(MAX_TANGENTS):
            cost = _tangent(program, variance, z, at).cost
            scaled = np.where(allowed, -cost / (float(cost[allowed].max()) or 1.0), -np.inf)
            solved = solve(replace(program, value=scaled, cost=np.zeros_like(cost), budget=math.inf), exact, seed=seed)
            if solved.model is None:
                break
            at, needed = _total(variance, solved.model), reserved_cost(program, variance, z, solved.model)
            if needed < least:
                safest, least = solved.model, needed
            if needed >= last:
                break
            last = needed
    return safest


def _total(variance: FloatArray, model: IntArray) -> float:
    """The variance of a choice; a billionth of the largest one where it has none, as the root has no tangent at 0."""
    return max(float(picked(variance, model).sum()), float(variance.max()) * 1e-9)


def _short(program: Program, variance: FloatArray, z: float, safest: IntArray) -> Infeasibility:
    needed = reserved_cost(program, variance, z, safest)
    message = (
        f"budget: no assignment was found that keeps it with the reserve for uncertain costs; "
        f"raise it to {needed:.6g} USD, add slots or lower the confidence"
    )
    cost = float(picked(program.cost, safest).sum())
    return Infeasibility("budget", needed - program.budget, cost, message)
