"""Budgeted uncertainty: at most Gamma of the success estimates are at their worst at once.

    max_x  sum_ij value x  -  max_{S, |S| <= Gamma}  sum_{i in S} sum_j deviation[i,j] x[i,j]

For a threshold t >= 0 the inner maximum is the least of Gamma t + sum_ij max(deviation - t, 0) x, so that the
problem is a family of plain batch problems, one for each t, with value - max(deviation - t, 0) in the objective.
Source: Bertsimas and Sim, "Robust discrete optimization and network flows", Mathematical Programming 98 (2003),
theorem 3. The best of a family member grows with t, so best(b) - Gamma a bounds all thresholds in [a, b]; intervals
are split, the most promising first, until the bound meets the best answer.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.outcome import Infeasibility, Prices
from apportion.router.assignment.program import Program, picked
from apportion.router.assignment.solver import Goal, Solved, solve

MAX_SOLVES = 24


@dataclass(frozen=True, eq=False)
class Budgeted:
    """model: (n_requests,) or None; objective: worst-case value; bound: proved upper bound on it."""

    model: IntArray | None
    objective: float
    bound: float
    prices: Prices
    timed_out: bool
    reason: Infeasibility | None


def worst_case(value: FloatArray, deviation: FloatArray, model: IntArray, gamma: float) -> float:
    """Objective of a choice when its `gamma` largest deviations occur, the last one in part."""
    largest = -np.sort(-picked(deviation, model))
    share = np.clip(gamma - np.arange(len(largest)), 0.0, 1.0)
    return float(picked(value, model).sum() - share @ largest)


def solve_budgeted(
    program: Program, deviation: FloatArray, gamma: float, goal: Goal, warm: Prices | None, seed: int
) -> Budgeted:
    """The best worst case within the goal, after at most MAX_SOLVES plain solves.

    deviation: (n_requests, n_models) >= 0, how far each value may fall.
    """
    family = _Family(program, deviation, gamma, goal, seed)
    top = float(deviation.max(where=np.isfinite(program.value), initial=0.0))
    last = family.best(top, warm)
    if last.model is None:
        return Budgeted(None, -math.inf, math.inf, last.prices, last.timed_out, last.reason)
    first = family.best(0.0, last.prices)
    # Bound of an interval, its ends, and the family's bound at the upper end.
    open_ = [(-last.bound, 0.0, top, last.bound)]
    while open_ and family.solves < MAX_SOLVES and not goal.late:
        bound, low, high, bound_high = open_[0]
        if -bound <= max(family.objective, goal.enough(-bound)) or family.objective >= goal.enough(-bound):
            break
        heapq.heappop(open_)
        middle = (low + high) / 2
        solved = family.best(middle, first.prices)
        if solved.model is None:
            heapq.heappush(open_, (bound, low, high, bound_high))
            break
        heapq.heappush(open_, (-(solved.bound - gamma * low), low, middle, solved.bound))
        heapq.heappush(open_, (-(bound_high - gamma * middle), middle, high, bound_high))
    proved = max(family.objective, -open_[0][0] if open_ else -math.inf)
    return Budgeted(family.model, family.objective, proved, last.prices, goal.late, None)


class _Family:
    """The plain problems of all thresholds; keeps the answer with the best worst case."""

    def __init__(self, program: Program, deviation: FloatArray, gamma: float, goal: Goal, seed: int) -> None:
        self.program, self.deviation, self.gamma, self.goal, self.seed = program, deviation, gamma, goal, seed
        self.model: IntArray | None = None
        self.objective = -math.inf
        self.solves = 0

    def best(self, threshold: float, warm: Prices | None) -> Solved:
        self.solves += 1
        value = self.program.value - np.maximum(self.deviation - threshold, 0.0)
        solved = solve(replace(self.program, value=value), self.goal, warm, self.seed)
        if solved.model is not None:
            worth = worst_case(self.program.value, self.deviation, solved.model, self.gamma)
            if worth > self.objective:
                self.model, self.objective = solved.model, worth
        return solved
