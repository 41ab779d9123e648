"""All answers near the prices, enumerated: proves small cores without a solver.

At prices (budget, slots) an answer falls short of the Lagrangian bound by its loss: the regrets of its pairs
plus the priced part of what it leaves unused. Answers of regret at most `reach` are built request by request,
as arrays of partial answers; a partial answer goes as soon as it is sure to be worse than the incumbent or to
break a limit. If the best of them loses no more than `reach`, it is optimal; otherwise the bound falls by it.
Widening the reach step by step closes the gap from both sides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from .outcome import Prices
from .problem import BoolArray, FloatArray, IntArray
from .program import Program, picked

SHIFTS = (8, 16, 24, 32, 40)
MAX_PARTIAL = 20_000


@dataclass(frozen=True, eq=False)
class Nearby:
    """model: an answer better than the incumbent, or None; bound: proved upper bound on every answer."""

    model: IntArray | None
    bound: float


@dataclass(frozen=True, eq=False)
class _Shifts:
    """Shifts of requests from their base: (n,) request, target, extra cost and regret, sorted by request."""

    request: IntArray
    target: IntArray
    extra: FloatArray
    regret: FloatArray
    base: IntArray


@dataclass(frozen=True, eq=False)
class _Partial:
    """Partial answers: (n,) regret and cost, (n, n_models) slots used."""

    regret: FloatArray
    cost: FloatArray
    use: FloatArray

    def at(self, keep: BoolArray | IntArray) -> _Partial:
        return _Partial(self.regret[keep], self.cost[keep], self.use[keep])


@dataclass(frozen=True, eq=False)
class _Ahead:
    """What the shifts of the requests still to come can do at most, after 0, 1, ... requests.

    groups: indices of the shifts of each request. saving, spending: (n_groups + 1,) cost; relief, intake:
    (n_groups + 1, n_models) slots freed and taken.
    """

    groups: list[IntArray]
    saving: FloatArray
    spending: FloatArray
    relief: FloatArray
    intake: FloatArray

    @classmethod
    def of(cls, program: Program, shifts: _Shifts) -> _Ahead:
        first = np.flatnonzero(np.diff(shifts.request, prepend=-1))
        n, m = len(first), program.n_models
        if not n:
            none = np.zeros((1, m))
            return cls([], np.zeros(1), np.zeros(1), none, none)
        request = shifts.request[first]
        relief, intake = np.zeros((n, m)), np.zeros((n, m))
        relief[np.arange(n), shifts.base[request]] = program.load[request]
        group = np.repeat(np.arange(n), np.diff(np.append(first, len(shifts.request))))
        intake[group, shifts.target] = program.load[shifts.request]
        saving = np.maximum(-np.minimum.reduceat(shifts.extra, first), 0.0)
        spending = np.maximum(np.maximum.reduceat(shifts.extra, first), 0.0)
        groups = np.split(np.arange(len(shifts.request)), first[1:])
        return cls(groups, _still(saving), _still(spending), _still(relief), _still(intake))


def _still(amount: FloatArray) -> FloatArray:
    """Sums of the entries from each on, and a zero after the last."""
    total = np.cumsum(amount[::-1], axis=0)[::-1]
    return np.concatenate([total, np.zeros_like(amount[:1])])


@dataclass(frozen=True, eq=False)
class _Found:
    model: IntArray | None
    loss: float
    complete: bool


def search(
    program: Program,
    prices: Prices,
    reduced: FloatArray,
    incumbent_worth: float,
    enough: float,
    deadline: float | None = None,
) -> Nearby:
    """Widen the reach until an answer is worth `enough`, is proved optimal, or there are too many.

    deadline: `time.perf_counter()` after which the reach grows no more.
    """
    base = reduced.argmax(axis=1)
    best = picked(reduced, base)
    bound = lagrangian = program.bound(best, prices)
    regret = best[:, None] - reduced
    regret[np.arange(len(base)), base] = np.inf
    flat = regret.ravel()
    nearest = np.argpartition(flat, min(SHIFTS[-1], flat.size - 1))[: SHIFTS[-1] + 1]
    nearest = nearest[np.argsort(flat[nearest])]
    nearest = nearest[np.isfinite(flat[nearest])]
    answer = None
    for count in SHIFTS:
        if deadline is not None and time.perf_counter() >= deadline:
            break
        slack = lagrangian - incumbent_worth
        reach = min(slack, np.inf if count >= len(nearest) else float(flat[nearest[count]]))
        request, target = np.divmod(np.sort(nearest[:count]), program.n_models)
        extra = program.cost[request, target] - program.cost[request, base[request]]
        shifts = _Shifts(request, target, extra, regret[request, target], base)
        found = _within(program, prices, shifts, reach, slack)
        if found.model is not None and lagrangian - found.loss > incumbent_worth:
            answer, incumbent_worth = found.model, lagrangian - found.loss
        if found.complete:
            bound = min(bound, lagrangian - min(found.loss, reach))
        if not found.complete or min(found.loss, slack) <= reach or incumbent_worth >= enough:
            break
    return Nearby(answer, bound)


def _within(program: Program, prices: Prices, shifts: _Shifts, reach: float, slack: float) -> _Found:
    """The best answer of regret <= reach and loss <= slack; complete if no partial answer was cut."""
    ahead = _Ahead.of(program, shifts)
    start = np.array([picked(program.cost, shifts.base).sum()])
    partial = _Partial(np.zeros(1), start, program.use(shifts.base)[None, :])
    trail: list[tuple[IntArray, IntArray]] = []
    complete = True
    for step, group in enumerate(ahead.groups):
        partial, parent, taken = _extend(program, partial, shifts, group)
        least = _least_loss(program, prices, partial, ahead, step + 1)
        keep = np.flatnonzero((partial.regret <= reach) & (least <= slack))
        if keep.size > MAX_PARTIAL:
            keep = keep[np.argpartition(least[keep], MAX_PARTIAL)[:MAX_PARTIAL]]
            complete = False
        if not keep.size:
            return _Found(None, np.inf, complete)
        partial = partial.at(keep)
        trail.append((parent[keep], taken[keep]))
    loss = _least_loss(program, prices, partial, ahead, len(ahead.groups))
    k = int(loss.argmin())
    if not np.isfinite(loss[k]):
        return _Found(None, np.inf, complete)
    return _Found(_traced(shifts, trail, k), float(loss[k]), complete)


def _traced(shifts: _Shifts, trail: list[tuple[IntArray, IntArray]], last: int) -> IntArray:
    model = shifts.base.copy()
    for parent, taken in reversed(trail):
        shift = int(taken[last])
        if shift >= 0:
            model[shifts.request[shift]] = shifts.target[shift]
        last = int(parent[last])
    return model


def _extend(
    program: Program, partial: _Partial, shifts: _Shifts, group: IntArray
) -> tuple[_Partial, IntArray, IntArray]:
    """Every partial answer with the group's request on its base or on one of its shifts; parent and shift."""
    n, options = len(partial.regret), len(group) + 1
    i = int(shifts.request[group[0]])
    move = np.zeros((options, program.n_models))
    move[1:, shifts.base[i]] -= program.load[i]
    move[np.arange(1, options), shifts.target[group]] += program.load[i]
    regret, extra = np.append(0.0, shifts.regret[group]), np.append(0.0, shifts.extra[group])
    extended = _Partial(
        (regret[:, None] + partial.regret).ravel(),
        (extra[:, None] + partial.cost).ravel(),
        (move[:, None, :] + partial.use).reshape(n * options, program.n_models),
    )
    return extended, np.tile(np.arange(n), options), np.repeat(np.append(-1, group), n)


def _least_loss(program: Program, prices: Prices, partial: _Partial, ahead: _Ahead, step: int) -> FloatArray:
    """(n,) what every completion of a partial answer loses at least; inf if it has to break a limit."""
    least = partial.regret.copy()
    if prices.budget > 0:
        least += prices.budget * np.maximum(program.budget - ahead.spending[step] - partial.cost, 0.0)
    for j in np.flatnonzero(prices.slots > 0).tolist():
        unused = (program.slots[j] - ahead.intake[step, j]) - partial.use[:, j]
        least += prices.slots[j] * np.maximum(unused, 0.0)
    broken = partial.cost > program.budget_limit + ahead.saving[step]
    room = program.slots + ahead.relief[step]
    for j in np.flatnonzero(partial.use.max(axis=0) > room).tolist():
        broken |= partial.use[:, j] > room[j]
    least[broken] = np.inf
    return least
