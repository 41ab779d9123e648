"""Which requests of an infeasible batch to admit, so that the rest of it is feasible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.assignment.limited_seats import LimitedSeats
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import RELATIVE_SLACK, Program
from apportion.router.assignment.solver import Goal, most_admitted


def largest_feasible_subset(problem: BatchProblem, *, time_limit_s: float | None = None) -> BoolArray:
    """(n_requests,) True for requests to admit: as many as slots and budget take, the cheap ones first.

    The number is the largest possible, unless `time_limit_s` came first; weights do not count. The admitted
    requests alone (`problem.subset(mask)`) are always a feasible batch.
    """
    program = Program.of(problem)
    # Half of the rounding that is allowed for, so that sums in another order stay within it too.
    program = replace(program, budget=program.budget * (1 - RELATIVE_SLACK / 2))
    goal = Goal.within(time_limit_s)
    if not np.isfinite(program.value).any():
        return np.zeros(problem.n_requests, np.bool_)
    plain = _cheapest_of_each(program)
    return most_admitted(program, goal) if plain is None else plain


def _cheapest_of_each(program: Program) -> BoolArray | None:
    """The answer where it is plain: each engine has those that are cheapest on it; else None.

    Nothing gets more requests of one slot than there are slots that the budget pays for, were each engine's filled with
    those that are cheapest there, whoever else has them. Where as many can be had by giving the dearest engine its own
    first, they are the most.
    """
    if (program.load != 1).any() or program.limits:
        return None
    cost = _by_engine(program, np.where(np.isfinite(program.value), program.cost, np.inf))
    seats = np.where(np.arange(len(cost))[:, None] < program.slots, np.sort(cost, axis=0), np.inf)
    cheapest = np.argsort(seats, axis=None, kind="stable")[: len(cost)]
    spent = np.cumsum(seats.flat[cheapest])
    paid = np.isfinite(spent) & (spent <= program.budget_limit)
    counts = np.bincount(cheapest[paid] % program.n_engines, minlength=program.n_engines)
    admitted, total = np.zeros(len(cost), np.bool_), 0.0
    for engine in np.argsort(-seats[0]).tolist():
        theirs = np.where(admitted, np.inf, cost[:, engine])
        mine = np.argsort(theirs, kind="stable")[: counts[engine]]
        total += float(theirs[mine].sum())
        admitted[mine] = True
    return admitted if total < np.inf and total <= program.budget_limit else None


def _by_engine(program: Program, table: FloatArray) -> FloatArray:
    """(n_requests, n_engines) the least of a table (n_requests, n_models) over each engine's models; inf: none."""
    if program.row_of_column is None:
        return table
    least = np.full((len(table), program.n_engines), np.inf)
    for model, engine in enumerate(program.engine_of.tolist()):
        np.minimum(least[:, engine], table[:, model], out=least[:, engine])
    return least


def first_in_line(problem: BatchProblem) -> BoolArray:
    """(n_requests,) True for requests to admit when slots are short: in the order of the rows.

    The budget is left aside: where it may not do for those in line, `largest_feasible_subset` comes next.
    A request is admitted if those before it can be seated with it, moving them to other engines if need be. Where
    every request takes one slot such sets form a matroid (transversal matroid; Edmonds and Fulkerson 1965), so
    the greedy choice is the largest number too. A request that takes several slots and finds too few keeps those
    that it found, so that the small ones behind it cannot hold it up for ever. The admitted requests alone are
    always a feasible batch while the budget allows. With limits some may be left out that could have been seated; see
    `LimitedSeats`.
    """
    program = Program.of(problem)
    if program.limits:
        limited = LimitedSeats(program)
        return np.array([limited.take(row) for row in range(problem.n_requests)], np.bool_)
    load = _by_engine(program, np.where(np.isfinite(program.value), program.loads, np.inf))
    seats = _Seats(load, program.slots)
    return np.array([seats.take(row) for row in range(problem.n_requests)], np.bool_)


class _Seats:
    """Requests on engines' slots.

    load: (n_requests, n_engines) slots that a request takes there, inf where it may not be; slots: (n_engines,).
    """

    def __init__(self, load: FloatArray, slots: FloatArray) -> None:
        self._load = load
        self._free = slots.copy()
        self._on: list[list[int]] = [[] for _ in slots]
        self._full = np.zeros(len(slots), np.bool_)  # no free slot can be reached from these, nor will be

    def take(self, row: int) -> bool:
        """Seats the request if there is a way to."""
        load = self._load[row]
        engines = np.flatnonzero(np.isfinite(load) & ~self._full)
        if not engines.size:
            return False
        best = int(engines[(self._free[engines] - load[engines]).argmax()])
        if self._free[best] >= load[best]:
            self._seat(row, best)
            return True
        narrow = engines[load[engines] == 1]
        if narrow.size:
            return self._free_one(row, narrow.tolist())
        self._free[best] = 0
        return False

    def _seat(self, row: int, engine: int) -> None:
        self._free[engine] -= self._load[row, engine]
        self._on[engine].append(row)

    def _free_one(self, row: int, engines: list[int]) -> bool:
        """Breadth first over engines: one whose sitter of one slot can move on, ..., to a free slot."""
        came: dict[int, tuple[int, int]] = dict.fromkeys(engines, (row, -1))
        line = list(engines)
        for engine in line:
            for sitter in self._on[engine]:
                if self._load[sitter, engine] != 1:
                    continue
                for other in np.flatnonzero(self._load[sitter] == 1).tolist():
                    if other in came:
                        continue
                    came[other] = (sitter, engine)
                    if self._free[other] >= 1:
                        self._shift(came, other)
                        return True
                    line.append(other)
        self._full[line] = True
        return False

    def _shift(self, came: dict[int, tuple[int, int]], engine: int) -> None:
        while engine >= 0:
            sitter, left = came[engine]
            if left >= 0:
                self._on[left].remove(sitter)
                self._free[left] += 1
            self._seat(sitter, engine)
            engine = left
