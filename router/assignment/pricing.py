"""Shadow prices of budget, slots and limits, and the bound that they prove.

The dual of the linear relaxation has one price per limit. It is found on nested random samples of the batch
(256, 1024, 4096, ... requests with their share of the limits), each started from the prices of the one
before, then on the batch itself. At every level the relaxation is solved over the columns whose reduced value
is near the best of their request, and columns that the new prices prefer are added until the Lagrangian bound
meets the relaxation.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.outcome import Prices
from apportion.router.assignment.program import RELATIVE_SLACK, Program, Row, picked
from apportion.router.assignment.restricted import Relaxed, solve_restricted

FIRST_SAMPLE = 256
GROWTH = 4
MAX_ROUNDS = 60
WINDOW = 6.0


@dataclass(frozen=True, eq=False)
class Priced:
    """prices: the best found; bound: what they prove; relaxed: solution of the last relaxation, or None.

    base: (n_requests,) models from which `relaxed` shifts.
    """

    prices: Prices
    bound: float
    base: IntArray
    relaxed: Relaxed | None


def find_prices(
    program: Program, warm: Prices | None, deadline: float | None, tolerance: float, seed: int = 0
) -> Priced:
    """Prices within `tolerance` (relative to the bound) of the relaxation's, or the best by `deadline`.

    warm: prices to start from; with them the samples are skipped. Zero prices say nothing and are no start.
    """
    prices = None if warm is None or warm.free else warm
    if prices is None:
        order = np.random.default_rng(seed).permutation(program.n_requests)
        size = FIRST_SAMPLE
        while size * GROWTH // 2 <= program.n_requests:
            sample = program.sample(np.sort(order[:size]))
            prices = _level(sample, prices, deadline, max(tolerance, 1e-4), rounds=4).prices
            size *= GROWTH
    return _level(program, prices, deadline, tolerance)


def first_prices(program: Program) -> Prices:
    """Budget price alone, exact while nothing else binds; then one pass over the limits and the slots that overflow."""
    prices = replace(program.free_prices(), budget=budget_price(program))
    for _ in range(3):
        prices, dearer = _limits_priced(program, prices)
        reduced = program.reduced(prices)
        use = program.use(reduced.argmax(axis=1))
        over = np.flatnonzero(use > program.slots)
        if not over.size and not dearer:
            break
        slots = prices.slots.copy()
        for engine in over[np.argsort(program.slots[over] - use[over])].tolist():
            slots[engine] += _clearing_price(program, reduced, engine)
            reduced = program.reduced(replace(prices, slots=slots))
        prices = replace(prices, slots=slots)
        prices = replace(prices, budget=budget_price(program, prices))
    return prices


def budget_price(program: Program, others: Prices | None = None) -> float:
    """The price of budget that minimises the bound where the other limits have these prices, or none."""
    if not math.isfinite(program.budget):
        return 0.0
    return _row_price(program.reduced(replace(others or program.free_prices(), budget=0.0)), program.rows[0])


def _limits_priced(program: Program, prices: Prices) -> tuple[Prices, bool]:
    """The prices with those of the limits that are passed at them, and whether there are any."""
    before = prices
    for k, limit in enumerate(program.limits):
        if limit.slack(program.reduced(prices).argmax(axis=1)) >= 0:
            continue
        limits = prices.limits.copy()
        limits[k] = 0.0
        base = program.reduced(replace(prices, limits=limits))
        limits[k] = _row_price(base, limit)
        prices = replace(prices, limits=limits)
    return prices, prices is not before


def _row_price(base: FloatArray, row: Row) -> float:
    """The price of a row that minimises the bound, given the reduced values `base` at all other prices.

    The bound is convex and piecewise linear in the price: the tangents of a price that overspends and of one
    that does not meet in the next trial, until that lies on one of them.
    """
    low = _spend(base, row.use, 0.0)
    if low[1] <= row.at_most * (1 + RELATIVE_SLACK):
        return 0.0
    cheapest = np.where(np.isfinite(base), row.use, np.inf).argmin(axis=1)
    high = (float(picked(base, cheapest).sum()), float(picked(row.use, cheapest).sum()))
    price = 0.0
    for _ in range(64):
        if low[1] - high[1] <= 0:
            return price
        price = max((low[0] - high[0]) / (low[1] - high[1]), 0.0)
        worth, cost = _spend(base, row.use, price)
        tangent = low[0] - price * low[1]
        if worth - price * cost <= tangent + 1e-12 * max(abs(tangent), 1.0):
            return price
        if cost > row.at_most:
            low = (worth, cost)
        else:
            high = (worth, cost)
    return price


def _spend(base: FloatArray, use: FloatArray, price: float) -> tuple[float, float]:
    model = (base - price * use).argmax(axis=1)
    return float(picked(base, model).sum()), float(picked(use, model).sum())


def _clearing_price(program: Program, reduced: FloatArray, engine: int) -> float:
    """How much dearer an engine has to become until what still prefers it fits its slots."""
    others = reduced.copy()
    its = program.models_of(engine)
    own = reduced[:, its]
    others[:, its] = -np.inf
    margin = own.max(axis=1) - others.max(axis=1)
    order = np.argsort(-margin, kind="stable")
    load = program.load[order] if program.load.ndim == 1 else program.load[:, its][order, own[order].argmax(axis=1)]
    fit = int(np.searchsorted(np.cumsum(load), program.slots[engine], side="right"))
    if fit >= len(order) or not margin[order[fit]] > 0:
        return 0.0
    price = float(margin[order[fit]])
    return price if math.isfinite(price) else 0.0


def _level(
    program: Program, warm: Prices | None, deadline: float | None, tolerance: float, rounds: int = MAX_ROUNDS
) -> Priced:
    prices = first_prices(program) if warm is None else warm
    reduced = program.reduced(prices)
    base = reduced.argmax(axis=1)
    best = picked(reduced, base)
    result = Priced(prices, program.bound(best, prices), base, None)
    window = _window(program)
    columns = _near(reduced, best, window)
    for _ in range(rounds):
        left = None if deadline is None else deadline - time.perf_counter()
        if left is not None and left <= 0:
            break
        relaxed = _relax(program, base, columns, left)
        if relaxed is None:
            break
        if relaxed.missing > 1e-9:
            # Penalties are no prices: look further around the last ones before believing them.
            wider, window = _wider(reduced, best, columns, window)
            if wider is not None:
                columns = wider
                continue
        moved = program.reduced(relaxed.prices)
        moved_best = moved.max(axis=1)
        bound = program.bound(moved_best, relaxed.prices)
        if bound <= result.bound:
            result = Priced(relaxed.prices, bound, base, relaxed)
            reduced, best = moved, moved_best
        else:
            result = Priced(result.prices, result.bound, base, relaxed)
        solved = relaxed.missing <= 1e-9
        if solved and result.bound - relaxed.objective <= tolerance * max(abs(result.bound), 1e-9):
            break
        added = _near(moved, moved_best, window) & ~columns
        if not added.any():
            break
        columns |= added
    return result


def _wider(reduced: FloatArray, best: FloatArray, columns: BoolArray, window: int) -> tuple[BoolArray | None, int]:
    """More columns around the same prices, None if all are in already; and the window that holds them."""
    while window < reduced.size:
        window *= 4
        wider = _near(reduced, best, window) | columns
        if wider.sum() > columns.sum():
            return wider, window
    return None, window


def _window(program: Program) -> int:
    """How many columns to leave undecided: sampling moves each load by the root of the batch size."""
    return int(WINDOW * math.sqrt(program.n_requests * program.n_models)) + 16


def _near(reduced: FloatArray, best: FloatArray, count: int) -> BoolArray:
    """Columns nearest to the best of their request: about `count` besides the best themselves."""
    regret = best[:, None] - reduced
    flat = regret.ravel()
    wanted = min(count + len(best), flat.size) - 1
    limit = np.partition(flat, wanted)[wanted]
    near: BoolArray = (regret <= max(float(limit), 0.0)) & np.isfinite(regret)
    return near


def _relax(program: Program, base: IntArray, columns: BoolArray, time_limit_s: float | None) -> Relaxed | None:
    shifts = columns.copy()
    shifts[np.arange(len(base)), base] = False
    request, target = np.nonzero(shifts)
    return solve_restricted(program, base, request, target, time_limit_s)
