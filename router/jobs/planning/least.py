"""The least time and the least money that suffice for a job, between a proved bound and a mixture of choices.

    T*  =  min T   s.t.   sum_ij cost x <= budget,   sum_i sum_(j in e) load_ij x_ij <= speed_e T,   one model a row

where e are the engines and j in e the models that run on each. For prices y >= 0 of a second on each engine with
sum_e y_e = 1, and w >= 0 of money, no choice of models needs less than

    g(y, w)  =  sum_i min_e min_(j in e) (y_e load_ij / speed_e + w cost_ij) - w budget

seconds, so that any prices prove a bound; for money it is the same the other way round. The best prices are found by
cutting planes: a pass over the rows at some prices gives a choice, whose use of money and time cuts the bound at all
others (Kelley 1960; the next prices lie half-way to the best so far, or the planes swing: Ben-Ameur and Neto 2007). The
cuts' own optimum is a mixture of choices that keeps the limits, so that the linear relaxation is known to within the
tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import BatchProblem
from apportion.router.assignment.program import RELATIVE_SLACK

BLOCK = 65_536  # rows at a time, so that a pass needs little memory
MOST_PASSES = 400
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Least:
    """amount: that a mixture of choices needs; bound: that any choice needs, proved. Both inf: nothing suffices."""

    amount: float
    bound: float


NOTHING = Least(math.inf, math.inf)


def least_seconds(problem: BatchProblem, speed: FloatArray, enough_s: float | None = None) -> Least:
    """The least time in which the budget suffices.

    Args:
        speed: (E,) tokens that each engine generates in a second.
        enough_s: the search ends as soon as this time is shown to suffice, or not to.
    """
    return _least_seconds(_Passes(problem, speed), enough_s)


def least_usd(problem: BatchProblem, speed: FloatArray | None, seconds: float) -> Least:
    """The least money with which the time suffices, whatever the problem's budget.

    Args:
        speed: (E,) as above; None: any time does.
    """
    cheapest = cheapest_usd(problem)
    if speed is None:
        return Least(cheapest, cheapest)
    passes = _Passes(replace(problem, budget_usd=math.inf), speed)
    fastest = _least_seconds(passes, seconds)
    if fastest.bound > seconds * (1 + RELATIVE_SLACK):
        return NOTHING
    # Where the time lies between the proved least and that of a mixture, no mixture found is as fast as that.
    seconds = max(seconds, fastest.amount)
    best, least = -math.inf, math.inf
    prices = best_prices = np.zeros(problem.n_engines)
    for _ in range(MOST_PASSES):
        bound = passes.take(prices, 1.0) - seconds * prices.sum()
        if bound > best:
            best, best_prices = bound, prices
        least, cheapest_prices = passes.least_usd(seconds, cheapest or 1.0)
        if least - best <= TOLERANCE * least:
            break
        prices = (best_prices + cheapest_prices) / 2
    return Least(max(least, best), best)


def cheapest_usd(problem: BatchProblem) -> float:
    """What the rows cost at least, whatever the time."""
    cost = problem.cost_usd if problem.allowed is None else np.where(problem.allowed, problem.cost_usd, np.inf)
    return float(cost.min(axis=1).sum())


def _least_seconds(passes: _Passes, enough_s: float | None) -> Least:
    problem = passes.problem
    cheapest = passes.take(np.zeros(problem.n_engines), 1.0)
    if not cheapest <= problem.budget_usd:
        return NOTHING
    money = cheapest or 1.0  # so that both kinds of price are about one
    budget = problem.budget_usd / money if math.isfinite(problem.budget_usd) else 0.0
    best, least = -math.inf, math.inf
    prices = best_prices = np.append(np.full(problem.n_engines, 1 / problem.n_engines), 0.0)
    for _ in range(MOST_PASSES):
        bound = passes.take(prices[:-1], prices[-1] / money) - prices[-1] * budget
        if bound > best:
            best, best_prices = bound, prices
        least, fastest_prices = passes.least_seconds(money)
        if least - best <= TOLERANCE * least:
            break
        if enough_s is not None and (best > enough_s or least <= enough_s):
            break
        prices = (best_prices + fastest_prices) / 2
    return Least(max(least, best), best)


class _Passes:
    """Choices at prices, and what mixtures of them need."""

    def __init__(self, problem: BatchProblem, speed: FloatArray) -> None:
        self.problem = problem
        self._token_s = 1 / np.where(speed > 0, speed, np.inf)
        self._use_s: list[FloatArray] = []  # (E,) of each choice
        self._cost_usd: list[float] = []

    def take(self, time: FloatArray, money: float) -> float:
        """What the choice costs that costs least at these prices: of a second on each engine, (E,), and of a USD."""
        problem = self.problem
        use_s, cost_usd, total = np.zeros(problem.n_engines), 0.0, 0.0
        token = (time * self._token_s)[problem.engine_of]
        for start in range(0, problem.n_requests, BLOCK):
            rows = slice(start, start + BLOCK)
            load, costs = problem.load[rows], problem.cost_usd[rows]
            loads = load[:, None] if load.ndim == 1 else load
            price = loads * token
            if money:
                price += money * costs
            if problem.allowed is not None:
                price[~problem.allowed[rows]] = np.inf
            model: IntArray = price.argmin(axis=1)
            every = np.arange(len(model))
            total += float(price[every, model].sum())
            cost_usd += float(costs[every, model].sum())
            taken = load if load.ndim == 1 else load[every, model]
            use_s += np.bincount(problem.engine_of[model], weights=taken, minlength=problem.n_engines) * self._token_s
        self._use_s.append(use_s)
        self._cost_usd.append(cost_usd)
        return total

    def least_seconds(self, money: float) -> tuple[float, FloatArray]:
        """The least time of a mixture that keeps the budget, and the prices there: of a second, and of `money` USD."""
        e, n = self.problem.n_engines, len(self._use_s)
        budgeted = math.isfinite(self.problem.budget_usd)
        over = (np.array(self._cost_usd) - self.problem.budget_usd) / money if budgeted else np.zeros(n)
        most = [None] * e + [None if budgeted else 0.0]
        return _highest(np.column_stack([self._use_s, over]), np.zeros(n), most, sum_to_one=e)

    def least_usd(self, seconds: float, money: float) -> tuple[float, FloatArray]:
        """The least money of a mixture that keeps the time, and the prices of a second there."""
        over = (np.array(self._use_s) - seconds) / seconds
        usd, price = _highest(over, np.array(self._cost_usd) / money, [None] * self.problem.n_engines)
        return usd * money, price * money / seconds


def _highest(
    slopes: FloatArray, at_zero: FloatArray, most: Sequence[float | None], sum_to_one: int = 0
) -> tuple[float, FloatArray]:
    """The highest point, and its place, under all planes `at_zero` + `slopes` @ place, with 0 <= place <= `most`.

    sum_to_one: how many of the first coordinates are shares of one.
    """
    from scipy.optimize import linprog

    n, width = slopes.shape
    shares = np.repeat([1.0, 0.0], [sum_to_one, width + 1 - sum_to_one])[None, :]
    found = linprog(
        np.append(np.zeros(width), -1.0),
        A_ub=np.column_stack([-slopes, np.ones(n)]), b_ub=at_zero,
        A_eq=shares if sum_to_one else None, b_eq=[1.0] if sum_to_one else None,
        bounds=[*((0.0, high) for high in most), (None, None)],
        method="highs",
    )  # fmt: skip
    return float(-found.fun), found.x[:-1]
