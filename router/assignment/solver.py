"""Prices, certified reduction, core: the best assignment and its proof.

1. Every request on its best model: if that keeps the limits, it is optimal.
2. Shadow prices (`pricing`) prove an upper bound; rounding the relaxation and moving requests (`moves`) gives
   an answer. If the two are within the gap, the answer is proved.
3. Answers near the prices are enumerated (`nearby`), which proves small cores in about a millisecond. Where there is
   none yet, HiGHS rounds the relaxation over the nearest pairs.
4. Pairs that no better answer can contain are removed (`core.certified`), and what is left goes through Pyomo
   to HiGHS: first the pairs nearest to the prices, which mostly hold an answer within the gap, then more, at
   last all that are certified.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.core import certified, nearest, solve_core
from apportion.router.assignment.feasibility import Feasibility, admission, examine, obviously_infeasible, placed
from apportion.router.assignment.moves import fit_rows, fit_slots, upgrade
from apportion.router.assignment.nearby import search
from apportion.router.assignment.outcome import Infeasibility, Prices
from apportion.router.assignment.pricing import Priced, find_prices
from apportion.router.assignment.program import Program

FIRST_CORE = 160
CORE_GROWTH = 4
ROUNDING_CORES = (160, 640, 2560)
# Of the time limit, so many times one pass over the batch are kept for rounding and summing up.
RESERVED_PASSES = 6


@dataclass(frozen=True, eq=False)
class Solved:
    """model: (n_requests,), None when there is none; bound: proved upper bound; reason: why there is none.

    Without model and without reason, the deadline came before either was found.
    """

    model: IntArray | None
    bound: float
    prices: Prices
    timed_out: bool
    reason: Infeasibility | None = None


@dataclass(frozen=True)
class Goal:
    """When to stop: relative gap, absolute gap, `time.perf_counter()` deadline."""

    gap: float = 1e-4
    absolute: float = 1e-9
    deadline: float | None = None

    @classmethod
    def within(cls, time_limit_s: float | None, gap: float = 1e-4) -> Goal:
        """The goal with its deadline so many seconds from now; None: without one."""
        return cls(gap=gap, deadline=None if time_limit_s is None else time.perf_counter() + time_limit_s)

    def enough(self, bound: float) -> float:
        """The objective from which an answer counts as proved."""
        return bound - max(self.absolute, self.gap / (1 + self.gap) * abs(bound))

    def left_s(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.perf_counter()

    @property
    def late(self) -> bool:
        return self.deadline is not None and time.perf_counter() >= self.deadline


def solve(program: Program, goal: Goal, warm: Prices | None = None, seed: int = 0) -> Solved:
    """The best assignment within the goal, or the best found by its deadline, or why there is none."""
    began = time.perf_counter()
    free = program.free_prices()
    model = favourite(program)
    if goal.deadline is not None:
        goal = replace(goal, deadline=goal.deadline - RESERVED_PASSES * (time.perf_counter() - began))
    if program.keeps(model):
        return Solved(model, program.worth(model), free, False)
    if obviously_infeasible(program):
        reason = feasible(program, goal).reason
        if reason is not None:
            return Solved(None, -math.inf, free, False, reason)
    priced = find_prices(program, warm, goal.deadline, goal.gap / 20, seed)
    reduced = program.reduced(priced.prices)
    incumbent = _first_answer(program, priced, reduced, goal)
    bound, worth = priced.bound, _worth(program, incumbent)
    if worth < goal.enough(bound):
        near = search(program, priced.prices, reduced, worth, goal.enough(bound), goal.deadline)
        bound = min(bound, near.bound)
        incumbent = incumbent if near.model is None else near.model
    if incumbent is None:
        incumbent = _core_answer(program, priced, reduced, goal)
    if incumbent is None:
        examined = feasible(program, goal)
        if examined.model is None:
            return Solved(None, -math.inf, priced.prices, goal.late, examined.reason)
        incumbent = upgrade(program, examined.model)
    return _close(program, goal, priced.prices, bound, reduced, incumbent)


def feasible(program: Program, goal: Goal) -> Feasibility:
    """The cheapest assignment by the goal's deadline, or why there is none."""

    def best(placing: Program) -> tuple[IntArray, bool]:
        exact = Goal(gap=1e-9, absolute=0.0, deadline=goal.deadline)
        solved = solve(placing, exact)
        if solved.model is None:
            raise AssertionError("a program with refusal always has an answer")
        slack = 1e-9 * max(1.0, abs(solved.bound))
        return solved.model, placing.worth(solved.model) >= exact.enough(solved.bound) - slack

    return examine(program, best)


def most_admitted(program: Program, goal: Goal) -> BoolArray:
    """(n_requests,) True for the requests of a largest subset that keeps the limits."""
    # Numbers of requests are whole: less than one away from the bound is the most.
    solved = solve(admission(program), replace(goal, gap=0.0, absolute=1 - 1e-6))
    model = np.full(program.n_requests, program.n_models) if solved.model is None else solved.model
    return placed(program, model)


def favourite(program: Program) -> IntArray:
    """(n_requests,) the model of highest value, the cheaper one of equals."""
    top = program.value.max(axis=1, keepdims=True)
    model: IntArray = np.where(program.value >= top, program.cost, np.inf).argmin(axis=1)
    return model


def _first_answer(program: Program, priced: Priced, reduced: FloatArray, goal: Goal) -> IntArray | None:
    """The relaxation rounded; failing that the prices' favourites or the cheapest models, moved until all fits."""
    homeless = np.full(program.n_requests, -1)
    for start, worth in ((_rounded(priced), reduced), (reduced.argmax(axis=1), reduced), (homeless, -program.cost)):
        model = fit_rows(program, fit_slots(program, start, worth))
        if program.keeps(model):
            return model if goal.late else upgrade(program, model)
    return None


def _core_answer(program: Program, priced: Priced, reduced: FloatArray, goal: Goal) -> IntArray | None:
    """Where moves get stuck: the relaxation rounded by HiGHS over the pairs nearest to its prices, always more."""
    if priced.relaxed is None or priced.relaxed.missing > 1e-9:
        return None
    rounded = _rounded(priced)
    start: IntArray = np.where(rounded < 0, reduced.argmax(axis=1), rounded)
    regret = reduced.max(axis=1, keepdims=True) - reduced
    for count in ROUNDING_CORES:
        if goal.late:
            break
        keep = nearest(regret, count)
        found, _ = solve_core(
            program, keep, start, gap=goal.gap, target=None, time_limit_s=goal.left_s(), exact=False
        )  # fmt: skip
        if found is not None and program.keeps(found):
            return upgrade(program, found)
    return None


def _worth(program: Program, model: IntArray | None) -> float:
    return -math.inf if model is None else program.worth(model)


def _rounded(priced: Priced) -> IntArray:
    """Shifts taken whole are done; requests with a fraction wait for a model (-1)."""
    model = priced.base.copy()
    relaxed = priced.relaxed
    if relaxed is None:
        return model
    whole = relaxed.share > 1 - 1e-6
    part = (relaxed.share > 1e-6) & ~whole
    model[relaxed.request[whole]] = relaxed.target[whole]
    model[relaxed.request[part]] = -1
    return model


def _close(
    program: Program, goal: Goal, prices: Prices, bound: float, reduced: FloatArray, incumbent: IntArray
) -> Solved:
    lagrangian = program.bound(reduced.max(axis=1), prices)
    count, timed_out = FIRST_CORE, goal.late
    regret = reduced.max(axis=1, keepdims=True) - reduced
    while not goal.late:
        worth = program.worth(incumbent)
        if worth >= goal.enough(bound):
            break
        keep = certified(regret, lagrangian - worth)
        exact = int(keep.sum()) <= 2 * count + program.n_requests
        if not exact:
            keep = nearest(regret, count)
        found, solution = solve_core(
            program, keep, incumbent,
            gap=goal.gap * (0.99 if exact else 0.5), target=goal.enough(bound), time_limit_s=goal.left_s(), exact=exact,
        )  # fmt: skip
        if found is not None and program.keeps(found) and program.worth(found) > worth:
            incumbent, worth = found, program.worth(found)
        timed_out = solution.timed_out
        if exact:
            # Answers outside the core are worth no more than the incumbent that defined it.
            bound = min(bound, max(solution.bound, worth))
            break
        count *= CORE_GROWTH
    return Solved(incumbent, bound, prices, timed_out or goal.late)
