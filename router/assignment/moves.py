"""Moves of requests between models, many at a time: fit the slots, cut the cost, spend what is left."""

from __future__ import annotations

import numpy as np

from .problem import BoolArray, FloatArray, IntArray
from .program import Program, picked


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
        if cost.sum() <= program.budget_limit:
            return model
        free = program.slots - program.use(model)
        saved = cost[:, None] - program.cost
        open_ = (program.load[:, None] <= free) & (saved > 0)
        rate = np.full(saved.shape, np.inf)
        np.divide(picked(program.value, model)[:, None] - program.value, saved, out=rate, where=open_)
        moved, target = _best_moves(program, rate, free)
        if not moved.size:
            return model
        enough = int(np.searchsorted(np.cumsum(saved[moved, target]), cost.sum() - program.budget)) + 1
        model[moved[:enough]] = target[:enough]


def upgrade(program: Program, model: IntArray, max_rounds: int = 1000) -> IntArray:
    """Spend what is left: the most value won per USD first, while slots and budget hold."""
    model = model.copy()
    for _ in range(max_rounds):
        cost = picked(program.cost, model)
        slack = program.budget_limit - cost.sum()
        free = program.slots - program.use(model)
        won = program.value - picked(program.value, model)[:, None]
        extra = program.cost - cost[:, None]
        open_ = (program.load[:, None] <= free) & (won > 1e-12) & (extra <= slack)
        if not open_.any():
            return model
        # Free upgrades come first, the largest of them before the others.
        floor = (float(extra.max(where=open_, initial=0.0)) or 1.0) * 1e-9
        rate = np.full(won.shape, np.inf)
        np.divide(-won, np.maximum(extra, floor), out=rate, where=open_)
        moved, target = _best_moves(program, rate, free)
        spent = np.cumsum(np.maximum(extra[moved, target], 0.0))
        count = max(int(np.searchsorted(spent, slack, side="right")), 1)
        model[moved[:count]] = target[:count]
    return model


def _best_moves(program: Program, rate: FloatArray, free: FloatArray) -> tuple[IntArray, IntArray]:
    """One move a request, best rate first, as many as the free slots take."""
    target = rate.argmin(axis=1)
    best = rate[np.arange(len(rate)), target]
    order = np.argsort(best, kind="stable")
    order = order[np.isfinite(best[order])]
    target = target[order]
    room = _running(target, program.load[order]) <= free[target]
    return order[room], target[room]


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
