"""Moves of requests between models, many at a time: fit the slots, then budget and limits, and spend what is left."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.program import Program, Row, picked

MAX_UPGRADES = 1000
FEW_MOVES = 64
SWEEPS = 4


def fit_slots(program: Program, model: IntArray, worth: FloatArray | None = None) -> IntArray:
    """Move requests off overfull engines to free ones at the least loss; may get stuck and stop short.

    Requests at -1 get a model. `worth` (n_requests, n_models) replaces the value in measuring losses.
    """
    model, engine_of = model.copy(), program.engine_of
    worth = program.value if worth is None else worth
    while True:
        free = program.slots - program.use(model)
        waiting = model < 0
        candidates = np.flatnonzero(waiting | (free < 0)[engine_of[model]])
        if not candidates.size:
            return model
        home = model[candidates]
        more = program.more_load(candidates, home)
        # Below zero is what a request frees where it takes less of the engine that it is on.
        open_ = ((more <= free[engine_of]) | (more < 0)) & np.isfinite(program.value[candidates])
        reached = np.where(open_, worth[candidates], -np.inf)
        target = reached.argmax(axis=1)
        now = np.where(home < 0, 0.0, worth[candidates, home])
        loss = now - reached[np.arange(len(candidates)), target]
        order = np.argsort(loss, kind="stable")
        order = order[np.isfinite(loss[order])]
        if not order.size:
            return model
        candidates, target, home = candidates[order], target[order], home[order]
        source, sink = np.where(home < 0, -1, engine_of[home]), engine_of[target]
        stays, load = source == sink, program.load_of(candidates, target)
        freed = program.load_of(candidates, home) - np.where(stays, load, 0.0)
        # Leave each overfull engine only until it fits, enter each free one only while it has room.
        needed = (source < 0) | (_running(source, freed) - freed < -free[source])
        entered = _running(np.where(needed & ~stays, sink, -1), load) <= free[sink]
        moved = needed & (entered | stays)
        if not moved.any():
            moved[0] = True
        model[candidates[moved]] = target[moved]


def fit_rows(program: Program, model: IntArray) -> IntArray:
    """Move requests to where they use less, least value lost per unit first, until budget and limits hold or stuck."""
    rows = program.rows
    for _ in range(SWEEPS):
        for k, row in enumerate(rows):
            model = _cut(program, model, row, rows[:k] + rows[k + 1 :])
        if len(rows) == 1 or all(row.slack(model) >= 0 for row in rows):
            break
    return model


def _cut(program: Program, model: IntArray, row: Row, others: Sequence[Row]) -> IntArray:
    """The model moved until the row holds or no move helps; what holds of the other rows still does then."""
    model = model.copy()
    while True:
        slack = row.slack(model)
        if slack >= 0:
            return model
        others = [other for other in others if other.slack(model) >= 0]
        used = picked(row.use, model)
        saved = used[:, None] - row.use
        rate = np.full(saved.shape, np.inf)
        np.divide(picked(program.value, model)[:, None] - program.value, saved, out=rate, where=saved > 0)
        if others:
            rate[~_within(others, model, rate.shape)] = np.inf
        moved, target = _best_moves(program, model, rate)
        if len(moved) < FEW_MOVES and saved[moved, target].sum() < -slack:
            moved, target = _chained_moves(program, model, rate, row, slack, others)
        if not moved.size:
            return model
        enough = int(np.searchsorted(np.cumsum(saved[moved, target]), -slack)) + 1
        enough = min(enough, _first_within(others, model, moved, target))
        model[moved[:enough]] = target[:enough]


def upgrade(program: Program, model: IntArray) -> IntArray:
    """Spend what is left: the most value won per USD first, while slots, budget and limits hold.

    With limits, a move's price is what it takes of all that is left of them and of the budget, in shares.
    """
    model = model.copy()
    budget, *limits = rows = program.rows
    for _ in range(MAX_UPGRADES):
        lost = picked(program.value, model)[:, None] - program.value
        extra, slack = _extra(budget, model), budget.slack(model)
        possible = (lost < -1e-12) & (extra <= slack)
        if limits:
            possible &= _within(limits, model, possible.shape)
            extra = np.add.reduce([_share(row, model) for row in rows])
        if not possible.any():
            break
        # Free upgrades come first, the largest of them before the others.
        floor = (float(extra.max(initial=0.0)) or 1.0) * 1e-9
        rate = np.full(lost.shape, np.inf)
        np.divide(lost, np.maximum(extra, floor, out=extra), out=rate, where=possible)
        moved, target = _best_moves(program, model, rate)
        if len(moved) < FEW_MOVES:
            moved, target = _chained_moves(program, model, rate, budget, slack, limits)
            if not moved.size:
                break
        count = _first_within(rows, model, moved, target)
        model[moved[:count]] = target[:count]
    return model


def _extra(row: Row, model: IntArray) -> FloatArray:
    """(n_requests, n_models) what a move takes of a row beyond what the request has of it."""
    extra: FloatArray = row.use - picked(row.use, model)[:, None]
    return extra


def _share(row: Row, model: IntArray) -> FloatArray:
    """(n_requests, n_models) what a move takes of what is left of a row."""
    share: FloatArray = np.maximum(_extra(row, model), 0.0) / max(row.slack(model), 1e-300)
    return share


def _within(rows: Sequence[Row], model: IntArray, shape: tuple[int, ...]) -> BoolArray:
    """(n_requests, n_models) moves that each by itself leave the rows kept."""
    within = np.ones(shape, np.bool_)
    for row in rows:
        within &= _extra(row, model) <= row.slack(model)
    return within


def _first_within(rows: Sequence[Row], model: IntArray, moved: IntArray, target: IntArray) -> int:
    """How many of the moves, in their order, leave the rows kept together; one at least, as each does by itself."""
    count = len(moved)
    for row in rows:
        extra = row.use[moved, target] - row.use[moved, model[moved]]
        spent = np.cumsum(np.maximum(extra, 0.0))
        count = min(count, int(np.searchsorted(spent, row.slack(model), side="right")))
    return max(count, 1)


def _best_moves(program: Program, model: IntArray, rate: FloatArray) -> tuple[IntArray, IntArray]:
    """One move a request, best (least) rate first, as many as the free slots take."""
    free = (program.slots - program.use(model))[program.engine_of]
    every = np.arange(len(model))
    more = program.more_load(every, model)
    if more.max(initial=0.0) > free.min():
        rate = np.where(more <= free, rate, np.inf)
    target = rate.argmin(axis=1)
    best = rate[every, target]
    order = np.argsort(best, kind="stable")
    order = order[np.isfinite(best[order])]
    target = target[order]
    # Slots that a move frees on its engine are nobody's yet.
    taken = np.maximum(np.broadcast_to(more, rate.shape)[order, target], 0.0)
    room = _running(program.engine_of[target], taken) <= free[target]
    return order[room], target[room]


def _chained_moves(
    program: Program, model: IntArray, rate: FloatArray, row: Row, slack: float, others: Sequence[Row]
) -> tuple[IntArray, IntArray]:
    """One move a request, best rate first, where a slot that one request leaves is the next one's.

    Where hardly a slot is free, `_best_moves` finds hardly a move at a time. slack: what is left of the row; moves end
    when they have brought it from below zero to zero, and never bring it below zero, nor that of the others.
    """
    m, engine = program.n_models, program.engine_of.tolist()
    if program.row_of_column is not None:
        # Requests that stay on their engine wait for no slot, so they stand in lines of their own behind the others.
        stays = program.engine_of == program.engine_of[model][:, None]
        rate = np.hstack([np.where(stays, np.inf, rate), np.where(stays, rate, np.inf)])
    possible = np.isfinite(rate)
    counts, requests = possible.sum(axis=0).tolist(), np.flatnonzero(possible.any(axis=1))
    order = requests[np.argsort(rate[requests], axis=0, kind="stable")]
    lines = [order[:count, line].tolist() for line, count in enumerate(counts)]
    ranked = [rate[members, line].tolist() for line, members in enumerate(lines)]
    free, home, cutting = (program.slots - program.use(model)).tolist(), model.tolist(), slack < 0
    loads, narrow = program.load.tolist(), program.load.ndim == 1
    left = [other.slack(model) for other in others]
    heads = [(rates[0], line, 0) for line, rates in enumerate(ranked) if rates]
    heapq.heapify(heads)
    full: dict[int, list[tuple[float, int, int]]] = {}
    moved: dict[int, int] = {}
    while heads and not (cutting and slack >= 0):
        head = heapq.heappop(heads)
        _, line, at = head
        j = line % m
        sink = engine[j]
        if line < m and free[sink] <= 0:
            full.setdefault(sink, []).append(head)
            continue
        if at + 1 < counts[line]:
            heapq.heappush(heads, (ranked[line][at + 1], line, at + 1))
        i = lines[line][at]
        source = engine[home[i]]
        taken, freed = (loads[i], loads[i]) if narrow else (loads[i][j], loads[i][home[i]])
        extra = float(row.use[i, j] - row.use[i, home[i]])
        if i in moved or taken - (freed if sink == source else 0) > free[sink] or (extra > slack and not cutting):
            continue
        after = [was - float(other.use[i, j] - other.use[i, home[i]]) for was, other in zip(left, others, strict=True)]
        if min(after, default=0.0) < 0:
            continue
        moved[i], left = j, after
        slack -= extra
        free[sink] -= taken
        free[source] += freed
        for waiting in full.pop(source, ()):
            heapq.heappush(heads, waiting)
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
