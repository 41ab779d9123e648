"""Moves of requests between models, many at a time: fit the slots, cut the cost, spend what is left."""

from __future__ import annotations

import heapq

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.program import Program, picked

MAX_UPGRADES = 1000
FEW_MOVES = 64


def fit_slots(program: Program, model: IntArray, worth: FloatArray | None = None) -> IntArray:
    """Move requests off overfull models to free ones at the least loss; may get stuck and stop short.

    Requests at -1 get a model. `worth` (n_requests, n_models) replaces the value in measuring losses.
    """
    model = model.copy()
    worth = program.value if worth is None else worth
    while True:
        free = program.slots - program.use(model)
        waiting = model < 0
        candidates = np.flatnonzero(waiting | (free < 0)[model])
        if not candidates.size:
            return model
        open_ = (program.load[candidates][:, None] <= free) & np.isfinite(program.value[candidates])
        reached = np.where(open_, worth[candidates], -np.inf)
        target = reached.argmax(axis=1)
        now = np.where(waiting[candidates], 0.0, worth[candidates, model[candidates]])
        loss = now - reached[np.arange(len(candidates)), target]
        order = np.argsort(loss, kind="stable")
        order = order[np.isfinite(loss[order])]
        if not order.size:
            return model
        candidates, target = candidates[order], target[order]
        source, load = model[candidates], program.load[candidates]
        # Leave each overfull model only until it fits, enter each free one only while it has room.
        needed = (source < 0) | (_running(source, load) - load < -free[source])
        moved = needed & (_running(np.where(needed, target, -1), load) <= free[target])
        if not moved.any():
            moved[0] = True
        model[candidates[moved]] = target[moved]


def cut_cost(program: Program, model: IntArray) -> IntArray:
    """Move requests to cheaper models, least value lost per USD first, until the budget holds or stuck."""
    model = model.copy()
    while True:
        cost = picked(program.cost, model)
        slack = program.budget_limit - cost.sum()
        if slack >= 0:
            return model
        saved = cost[:, None] - program.cost
        rate = np.full(saved.shape, np.inf)
        np.divide(picked(program.value, model)[:, None] - program.value, saved, out=rate, where=saved > 0)
        moved, target = _best_moves(program, model, rate)
        if len(moved) < FEW_MOVES and saved[moved, target].sum() < -slack:
            moved, target = _chained_moves(program, model, rate, slack)
        if not moved.size:
            return model
        enough = int(np.searchsorted(np.cumsum(saved[moved, target]), -slack)) + 1
        model[moved[:enough]] = target[:enough]


def upgrade(program: Program, model: IntArray) -> IntArray:
    """Spend what is left: the most value won per USD first, while slots and budget hold."""
    model = model.copy()
    for _ in range(MAX_UPGRADES):
        cost = picked(program.cost, model)
        slack = program.budget_limit - cost.sum()
        won = program.value - picked(program.value, model)[:, None]
        extra = program.cost - cost[:, None]
        possible = (won > 1e-12) & (extra <= slack)
        if not possible.any():
            break
        # Free upgrades come first, the largest of them before the others.
        floor = (float(extra.max(where=possible, initial=0.0)) or 1.0) * 1e-9
        rate = np.full(won.shape, np.inf)
        np.divide(-won, np.maximum(extra, floor), out=rate, where=possible)
        moved, target = _best_moves(program, model, rate)
        if len(moved) < FEW_MOVES:
            moved, target = _chained_moves(program, model, rate, slack)
            if not moved.size:
                break
        spent = np.cumsum(np.maximum(extra[moved, target], 0.0))
        count = max(int(np.searchsorted(spent, slack, side="right")), 1)
        model[moved[:count]] = target[:count]
    return model


def _best_moves(program: Program, model: IntArray, rate: FloatArray) -> tuple[IntArray, IntArray]:
    """One move a request, best (least) rate first, as many as the free slots take."""
    free = program.slots - program.use(model)
    rate = np.where(program.load[:, None] <= free, rate, np.inf)
    target = rate.argmin(axis=1)
    best = rate[np.arange(len(rate)), target]
    order = np.argsort(best, kind="stable")
    order = order[np.isfinite(best[order])]
    target = target[order]
    room = _running(target, program.load[order]) <= free[target]
    return order[room], target[room]


def _chained_moves(program: Program, model: IntArray, rate: FloatArray, slack: float) -> tuple[IntArray, IntArray]:
    """One move a request, best rate first, where a slot that one request leaves is the next one's.

    Where hardly a slot is free, `_best_moves` finds hardly a move at a time. slack: budget that is left; moves end
    when they have brought it from below zero to zero, and never bring it below zero.
    """
    possible = np.isfinite(rate)
    counts, rows = possible.sum(axis=0).tolist(), np.flatnonzero(possible.any(axis=1))
    order = rows[np.argsort(rate[rows], axis=0, kind="stable")]
    columns = [order[:count, j].tolist() for j, count in enumerate(counts)]
    ranked = [rate[column, j].tolist() for j, column in enumerate(columns)]
    free, load = (program.slots - program.use(model)).tolist(), program.load.tolist()
    home, cutting = model.tolist(), slack < 0
    heads = [(rates[0], j, 0) for j, rates in enumerate(ranked) if rates]
    heapq.heapify(heads)
    full: dict[int, tuple[float, int, int]] = {}
    moved: dict[int, int] = {}
    while heads and not (cutting and slack >= 0):
        head = heapq.heappop(heads)
        _, j, at = head
        if free[j] <= 0:
            full[j] = head
            continue
        if at + 1 < counts[j]:
            heapq.heappush(heads, (ranked[j][at + 1], j, at + 1))
        i = columns[j][at]
        extra = float(program.cost[i, j] - program.cost[i, home[i]])
        if i in moved or load[i] > free[j] or (extra > slack and not cutting):
            continue
        moved[i] = j
        slack -= extra
        free[j] -= load[i]
        free[home[i]] += load[i]
        if home[i] in full:
            heapq.heappush(heads, full.pop(home[i]))
    return np.array(list(moved), np.int64), np.array(list(moved.values()), np.int64)


def _running(group: IntArray, amount: FloatArray) -> FloatArray:
    """Cumulative amount within each group, in the given order."""
    order = np.argsort(group, kind="stable")
    total = np.cumsum(amount[order])
    first: BoolArray = np.diff(group[order], prepend=group[order][:1] - 1) != 0
    starts = np.flatnonzero(first)
    before = np.repeat(total[starts] - amount[order][starts], np.diff([*starts, len(group)]))
    running = np.empty_like(total)
    running[order] = total - before
    return running
