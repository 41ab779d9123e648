"""One batch's slots and money in the hands of several Routers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Mip, Prices, assign, first_in_line, largest_feasible_subset
from benchmarks.sharding.traffic import Period

SOLVE_S = 0.5
UNSERVED = -1


@dataclass(frozen=True)
class Share:
    """What one Router may give: slots (M,) and USD."""

    slots: IntArray
    usd: float


def plan(problem: BatchProblem) -> tuple[IntArray, Prices | None]:
    """(N,) the model of each request, as a Router plans it, and its prices; UNSERVED where slots or money end."""
    model, prices = np.full(problem.n_requests, UNSERVED), None
    kept = np.flatnonzero(first_in_line(problem))
    if len(kept):
        kept = kept[largest_feasible_subset(problem.subset(kept), time_limit_s=SOLVE_S)]
    if len(kept):
        found = assign(problem.subset(kept), Mip(time_limit_s=SOLVE_S))
        model[kept], prices = found.model, found.prices
    return model, prices


def planned_apart(period: Period, shard: IntArray, shares: Sequence[Share]) -> IntArray:
    """(N,) the models when each Router plans the requests of its accounts within its share."""
    model = np.full(len(shard), UNSERVED)
    for number, share in enumerate(shares):
        rows = np.flatnonzero(shard == number)
        if len(rows):
            model[rows], _ = plan(period.problem(share.slots, share.usd).subset(rows))
    return model


def lent(period: Period, whole: Share, model: IntArray) -> IntArray:
    """The plan when all that is left over goes to requests that their own Router had nothing for."""
    served, left_out = model != UNSERVED, np.flatnonzero(model == UNSERVED)
    if not len(left_out):
        return model
    used = np.bincount(model[served], minlength=len(whole.slots))
    left_usd = max(whole.usd - float(period.cost_usd[served, model[served]].sum()), 0.0)
    model = model.copy()
    model[left_out], _ = plan(period.problem(whole.slots - used, left_usd).subset(left_out))
    return model


def priced(period: Period, whole: Share, prices: Prices) -> IntArray:
    """(N,) the models when each request goes where it is worth most at given prices, in the order of the rows.

    A model whose slots are out is left out, and nobody takes what the cheapest models of all behind him need.
    """
    worth = period.success - prices.budget * period.cost_usd - prices.slots
    cheapest = period.cost_usd.min(axis=1)
    behind_usd = cheapest.sum() - np.cumsum(cheapest)
    model, free, left_usd = np.full(len(worth), UNSERVED), whole.slots.copy(), whole.usd
    for row in range(len(worth)):
        for column in np.argsort(-worth[row]).tolist():
            if free[column] and period.cost_usd[row, column] <= left_usd - behind_usd[row]:
                model[row] = column
                free[column] -= 1
                left_usd -= float(period.cost_usd[row, column])
                break
    return model


def between(period: Period, slots: IntArray, share: float) -> float:
    """USD that lie this far from the cheapest choice that the slots allow to the best; infinite beyond all."""
    if not np.isfinite(share):
        return float("inf")
    rows, dearest = np.arange(len(period.account)), period.cost_usd.max()
    frugal = BatchProblem(1 - period.cost_usd / dearest, period.cost_usd, slots)
    cheapest, best = plan(frugal)[0], plan(period.problem(slots, float("inf")))[0]
    usd = [float(period.cost_usd[rows, model].sum()) for model in (cheapest, best)]
    return usd[0] + share * (usd[1] - usd[0])


def equal(whole: Share, count: int) -> list[Share]:
    """Every Router has as much."""
    return in_proportion(whole, np.ones((count, len(whole.slots))), np.ones(count))


def in_proportion(whole: Share, slots: FloatArray, usd: FloatArray) -> list[Share]:
    """Shares in proportion to what each Router has needed: slots (K, M) and USD (K,); whole slots, none left over."""
    divided = np.stack([_divided(int(n), slots[:, model]) for model, n in enumerate(whole.slots)], axis=1)
    weights = usd / usd.sum() if usd.sum() > 0 else np.full(len(usd), 1 / len(usd))
    return [Share(divided[number], whole.usd * float(weights[number])) for number in range(len(usd))]


def _divided(total: int, weights: FloatArray) -> IntArray:
    """Largest remainders; with a little for whoever needed nothing last time."""
    weights = weights + 0.02 * max(float(weights.mean()), 1.0)
    exact = total * weights / weights.sum()
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]] += 1
    return np.asarray(whole)
