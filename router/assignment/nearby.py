"""All answers near the prices, enumerated: proves small cores without a solver.

At prices (budget, slots) an answer falls short of the Lagrangian bound by its loss: the regrets of its pairs
plus the priced part of what it leaves unused. Answers of regret at most `reach` are built request by request,
as arrays of partial answers; a partial answer goes as soon as it is sure to be worse than the incumbent, to
break a limit, or to be no better than another one whatever follows. If the best of them loses no more than
`reach`, it is optimal; otherwise the bound falls by it. Widening the reach step by step closes the gap from
both sides. With a budget alone this is the expanding core of Pisinger, "A minimal algorithm for the
multiple-choice knapsack problem", European Journal of Operational Research 83 (1995).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment.outcome import Prices
from apportion.router.assignment.program import RELATIVE_SLACK, Program, picked

SHIFTS = (8, 16, 24, 32, 40, 80, 160, 320)
MOST_WITH_SLOTS = 40  # few partial answers use the same slots, so that hardly any makes another superfluous
MAX_PARTIAL = 20_000


@dataclass(frozen=True, eq=False)
class Nearby:
    """model: an answer better than the incumbent, or None; bound: proved upper bound on every answer."""

    model: IntArray | None
    bound: float


@dataclass(frozen=True, eq=False)
class _Shifts:
    """Shifts of requests from their base, sorted by request: (n,) request, target, extra cost and regret.

    The rows besides the budget that have a price or could run out are tight: slots of engines, then limits.
    move: (n, n_tight) what each shift takes and frees there; room: (n_tight,) of each row; most: the same with the
    rounding of a sum allowed for; price: (n_tight,); start: (n_tight,) what the bases take.
    """

    request: IntArray
    target: IntArray
    extra: FloatArray
    regret: FloatArray
    base: IntArray
    move: FloatArray
    room: FloatArray
    most: FloatArray
    price: FloatArray
    start: FloatArray

    @classmethod
    def of(
        cls, program: Program, prices: Prices, base: IntArray, request: IntArray, target: IntArray, regret: FloatArray
    ) -> _Shifts:
        home = base[request]
        extra = program.cost[request, target] - program.cost[request, home]
        source, sink = program.engine_of[home], program.engine_of[target]
        taken, use = program.load_of(request, target), program.use(base)
        most = use + np.bincount(sink, weights=taken, minlength=program.n_engines)
        tight = np.flatnonzero((prices.slots > 0) | (most > program.slots))
        move = taken[:, None] * (sink[:, None] == tight)
        move -= program.load_of(request, home)[:, None] * (source[:, None] == tight)
        room = ceiling = program.slots[tight]
        price, start = prices.slots[tight], use[tight]
        if program.limits:
            uses = [limit.use for limit in program.limits]
            move = np.column_stack([move, *(use[request, target] - use[request, home] for use in uses)])
            at_most = np.array([limit.at_most for limit in program.limits])
            room, ceiling = np.append(room, at_most), np.append(room, at_most * (1 + RELATIVE_SLACK))
            price, start = np.append(price, prices.limits), np.append(start, [picked(use, base).sum() for use in uses])
        return cls(request, target, extra, regret, base, move, room, ceiling, price, start)


@dataclass(frozen=True, eq=False)
class _Partial:
    """Partial answers: (n,) regret and cost, (n, n_tight) what they use of the tight rows."""

    regret: FloatArray
    cost: FloatArray
    use: FloatArray

    def at(self, keep: BoolArray | IntArray) -> _Partial:
        return _Partial(self.regret[keep], self.cost[keep], self.use[keep])


@dataclass(frozen=True, eq=False)
class _Ahead:
    """What the shifts of the requests still to come can do at most, after 0, 1, ... requests.

    groups: indices of the shifts of each request. saving, spending: (n_groups + 1,) cost; relief, intake:
    (n_groups + 1, n_tight) of the tight rows freed and taken.
    """

    groups: list[IntArray]
    saving: FloatArray
    spending: FloatArray
    relief: FloatArray
    intake: FloatArray

    @classmethod
    def of(cls, shifts: _Shifts) -> _Ahead:
        first = np.flatnonzero(np.diff(shifts.request, prepend=-1))
        if not len(first):
            none = np.zeros((1, len(shifts.room)))
            return cls([], np.zeros(1), np.zeros(1), none, none)
        groups = np.split(np.arange(len(shifts.request)), first[1:])
        low, high = (reduce.reduceat(shifts.extra, first) for reduce in (np.minimum, np.maximum))
        freed, taken = (reduce.reduceat(shifts.move, first, axis=0) for reduce in (np.minimum, np.maximum))
        return cls(groups, _still(-low), _still(high), _still(-freed), _still(taken))


def _still(amount: FloatArray) -> FloatArray:
    """Sums of the entries above zero from each on, and a zero after the last."""
    total = np.cumsum(np.maximum(amount, 0.0)[::-1], axis=0)[::-1]
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
        shifts = _Shifts.of(program, prices, base, request, target, regret[request, target])
        found = _within(program, prices, shifts, reach, slack)
        if found.model is not None and lagrangian - found.loss > incumbent_worth:
            answer, incumbent_worth = found.model, lagrangian - found.loss
        if found.complete:
            bound = min(bound, lagrangian - min(found.loss, reach))
        if not found.complete or min(found.loss, slack) <= reach or incumbent_worth >= enough:
            break
        if count >= MOST_WITH_SLOTS and len(shifts.room):
            break
    return Nearby(answer, bound)


def _within(program: Program, prices: Prices, shifts: _Shifts, reach: float, slack: float) -> _Found:
    """The best answer of regret <= reach and loss <= slack; complete if no partial answer was cut."""
    ahead = _Ahead.of(shifts)
    start = np.array([picked(program.cost, shifts.base).sum()])
    partial = _Partial(np.zeros(1), start, shifts.start[None, :])
    trail: list[tuple[IntArray, IntArray]] = []
    complete = True
    for step, group in enumerate(ahead.groups):
        partial, parent, taken = _extend(partial, shifts, group)
        least = _least_loss(program, prices, shifts, partial, ahead, step + 1)
        keep = np.flatnonzero((partial.regret <= reach) & (least <= slack))
        keep = keep[_undominated(prices, partial.at(keep))]
        if keep.size > MAX_PARTIAL:
            keep = keep[np.argpartition(least[keep], MAX_PARTIAL)[:MAX_PARTIAL]]
            complete = False
        if not keep.size:
            return _Found(None, np.inf, complete)
        partial = partial.at(keep)
        trail.append((parent[keep], taken[keep]))
    loss = _least_loss(program, prices, shifts, partial, ahead, len(ahead.groups))
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


def _extend(partial: _Partial, shifts: _Shifts, group: IntArray) -> tuple[_Partial, IntArray, IntArray]:
    """Every partial answer with the group's request on its base or on one of its shifts; parent and shift."""
    n, options = len(partial.regret), len(group) + 1
    regret, extra = np.append(0.0, shifts.regret[group]), np.append(0.0, shifts.extra[group])
    move = np.concatenate([np.zeros((1, len(shifts.room))), shifts.move[group]])
    extended = _Partial(
        (regret[:, None] + partial.regret).ravel(),
        (extra[:, None] + partial.cost).ravel(),
        (move[:, None, :] + partial.use).reshape(n * options, -1),
    )
    return extended, np.tile(np.arange(n), options), np.repeat(np.append(-1, group), n)


def _least_loss(
    program: Program, prices: Prices, shifts: _Shifts, partial: _Partial, ahead: _Ahead, step: int
) -> FloatArray:
    """(n,) what every completion of a partial answer loses at least; inf if it has to break a limit."""
    least = partial.regret.copy()
    if prices.budget > 0:
        least += prices.budget * np.maximum(program.budget - ahead.spending[step] - partial.cost, 0.0)
    broken = partial.cost > program.budget_limit + ahead.saving[step]
    for column, price in enumerate(shifts.price.tolist()):
        use = partial.use[:, column]
        if price > 0:
            least += price * np.maximum(shifts.room[column] - ahead.intake[step, column] - use, 0.0)
        broken |= use > shifts.most[column] + ahead.relief[step, column]
    least[broken] = np.inf
    return least


def _undominated(prices: Prices, partial: _Partial) -> IntArray:
    """Indices of the partial answers that no other one makes superfluous.

    One does if it uses the same of the tight rows, costs no more and is worth no less: whatever completes the other
    completes it, at the same gain.
    """
    if len(partial.regret) < 2:
        return np.arange(len(partial.regret))
    unworth = partial.regret - prices.budget * partial.cost
    if not partial.use.shape[1]:
        order = partial.cost.argsort()
        level = unworth[order]
    else:
        order = np.lexsort((unworth, partial.cost, *partial.use.T))
        use = partial.use[order]
        group = np.cumsum(np.append(False, (use[1:] != use[:-1]).any(axis=1)))
        # The first of a group is below all groups before it, so that one running minimum serves them all.
        level = np.unique(unworth, return_inverse=True)[1][order] - group * len(order)
    keep: IntArray = order[np.append(True, level[1:] < np.minimum.accumulate(level)[:-1])]
    return keep
