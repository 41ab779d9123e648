"""Moves of requests between models, many at a time: fit the slots, cut the cost, spend what is left."""

from __future__ import annotations

import numpy as np

from .problem import BatchProblem, BoolArray, FloatArray, IntArray
from .summary import budget_limit, picked, slot_use


def fit_slots(problem: BatchProblem, value: FloatArray, model: IntArray) -> IntArray:
    """Move requests off overfull models to free ones at the least loss of value; may get stuck."""
    model = model.copy()
    rows = np.arange(problem.n_requests)
    while True:
        free = problem.slots - slot_use(problem, model)
        waiting = model < 0
        movable = waiting | ((free < 0)[model])
        candidates = np.flatnonzero(movable)
        if not candidates.size:
            return model
        fits = _fits(problem, candidates, free)
        worth = np.where(fits, value[candidates], -np.inf)
        target = worth.argmax(axis=1)
        now = np.where(waiting[candidates], 0.0, value[candidates, model[candidates]])
        loss = now - worth[np.arange(len(candidates)), target]
        possible = np.isfinite(loss)
        if not possible.any():
            return model
        candidates, target, loss = candidates[possible], target[possible], loss[possible]
        order = np.argsort(loss, kind="stable")
        candidates, target = candidates[order], target[order]
        load = problem.load[candidates]
        # Leave each overfull model only until it fits, enter each free one only while it has room.
        source = model[candidates]
        needed = (source < 0) | (_running(source, load) - load < -free[source])
        entered = _running(np.where(needed, target, -1), load) <= free[target]
        moved = needed & entered
        if not moved.any():
            moved = np.zeros_like(needed)
            moved[0] = True
        model[rows[candidates[moved]]] = target[moved]


def cut_cost(problem: BatchProblem, value: FloatArray, model: IntArray) -> IntArray:
    """Move requests to cheaper models, the least value lost per USD saved first, until the budget holds."""
    model = model.copy()
    while True:
        cost = picked(problem.cost_usd, model)
        excess = cost.sum() - problem.budget_usd
        if cost.sum() <= budget_limit(problem.budget_usd):
            return model
        free = problem.slots - slot_use(problem, model)
        saved = cost[:, None] - problem.cost_usd
        lost = picked(value, model)[:, None] - value
        open_ = _fits(problem, slice(None), free) & (saved > 0)
        rate = np.full(saved.shape, np.inf)
        np.divide(lost, saved, out=rate, where=open_)
        moved, target = _best_moves(problem, rate, free)
        gain = np.cumsum(saved[moved, target])
        count = int(np.searchsorted(gain, excess)) + 1
        if not moved.size:
            return model
        model[moved[:count]] = target[:count]


def upgrade(problem: BatchProblem, value: FloatArray, model: IntArray, max_rounds: int = 1000) -> IntArray:
    """Spend what is left: the most value won per USD first, while slots and budget hold."""
    model = model.copy()
    for _ in range(max_rounds):
        cost = picked(problem.cost_usd, model)
        slack = budget_limit(problem.budget_usd) - cost.sum()
        free = problem.slots - slot_use(problem, model)
        won = value - picked(value, model)[:, None]
        extra = problem.cost_usd - cost[:, None]
        open_ = _fits(problem, slice(None), free) & (won > 1e-12) & (extra <= slack)
        if not open_.any():
            return model
        # Free upgrades come first, the largest of them before the others.
        floor = max(float(np.abs(extra).max()), 1e-300) * 1e-9
        rate = np.where(open_, -won / np.maximum(extra, floor), np.inf)
        moved, target = _best_moves(problem, rate, free)
        spent = np.cumsum(np.maximum(extra[moved, target], 0.0))
        count = max(int(np.searchsorted(spent, slack, side="right")), 1)
        model[moved[:count]] = target[:count]
    return model


def _fits(problem: BatchProblem, requests: IntArray | slice, free: IntArray) -> BoolArray:
    """(len(requests), n_models) True where a free model has room for the request and may answer it."""
    fits: BoolArray = problem.load[requests][:, None] <= free
    return fits if problem.allowed is None else fits & problem.allowed[requests]


def _best_moves(problem: BatchProblem, rate: FloatArray, free: IntArray) -> tuple[IntArray, IntArray]:
    """One move a request, best rate first, as many as the free slots take."""
    target = rate.argmin(axis=1)
    best = rate[np.arange(len(rate)), target]
    order = np.argsort(best, kind="stable")
    order = order[np.isfinite(best[order])]
    target = target[order]
    room = _running(target, problem.load[order]) <= free[target]
    return order[room], target[room]


def _running(group: IntArray, amount: IntArray) -> IntArray:
    """Cumulative amount within each group, in the given order."""
    order = np.argsort(group, kind="stable")
    total = np.cumsum(amount[order])
    starts = np.flatnonzero(np.diff(group[order], prepend=group[order][:1] - 1))
    before = np.repeat(total[starts] - amount[order][starts], np.diff([*starts, len(group)]))
    running = np.empty_like(total)
    running[order] = total - before
    return running
