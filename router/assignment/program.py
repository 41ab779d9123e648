"""The batch problem in the solver's terms: one value per pair, -inf where the pair is not allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.outcome import Prices
from apportion.router.assignment.problem import ENDLESS, BatchProblem

# Sums of thousands of costs differ in the last digits with the order of summation.
RELATIVE_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Row:
    """sum use x <= at_most over all pairs; use: (n_requests, n_models); name: it is told by."""

    use: FloatArray
    at_most: float
    name: str = "budget"

    def slack(self, model: IntArray) -> float:
        """What a choice leaves, with the rounding of a sum allowed for; below 0 where it takes too much."""
        return self.at_most * (1 + RELATIVE_SLACK) - float(picked(self.use, model).sum())


@dataclass(frozen=True, eq=False)
class Program:
    """max sum value x  s.t.  sum cost x <= budget,  sum load x <= slots,  sum use x <= at_most,  one model each.

    value: (n_requests, n_models), -inf = not allowed; cost: (n_requests, n_models) >= 0;
    load: (n_requests,) or (n_requests, n_models) >= 1; slots: (n_engines,) as floats, so that a sample of the batch can
    have its share and an engine can be without limit (inf); budget: a number or inf; row_of_column: (n_models,) the
    engine of each model, None = each has its own; limits: further rows.
    """

    value: FloatArray
    cost: FloatArray
    load: FloatArray
    slots: FloatArray
    budget: float
    row_of_column: IntArray | None = None
    limits: tuple[Row, ...] = ()

    @classmethod
    def of(cls, problem: BatchProblem, value: FloatArray | None = None) -> Program:
        """The program of a batch, with `value` in place of its own objective if given."""
        value = problem.value if value is None else value
        if problem.allowed is not None:
            value = np.where(problem.allowed, value, -np.inf)
        engines = problem.row_of_column
        if engines is not None and np.array_equal(engines, np.arange(problem.n_engines)):
            engines = None
        return cls(
            value, problem.cost_usd, problem.load.astype(np.float64),
            np.where(problem.slots == ENDLESS, np.inf, problem.slots), problem.budget_usd,
            engines, tuple(Row(limit.use, limit.at_most, limit.name) for limit in problem.limits),
        )  # fmt: skip

    @property
    def n_requests(self) -> int:
        return int(self.value.shape[0])

    @property
    def n_models(self) -> int:
        return int(self.value.shape[1])

    @property
    def n_engines(self) -> int:
        return len(self.slots)

    @property
    def engine_of(self) -> IntArray:
        """(n_models,) index of the engine of each model."""
        return np.arange(self.n_models) if self.row_of_column is None else self.row_of_column

    def models_of(self, engine: int) -> IntArray | slice:
        """The models of an engine, to take their columns by."""
        if self.row_of_column is None:
            return slice(engine, engine + 1)
        return np.flatnonzero(self.row_of_column == engine)

    @property
    def loads(self) -> FloatArray:
        """(n_requests, 1) or (n_requests, n_models): what pairs take of their engines, to broadcast."""
        return self.load[:, None] if self.load.ndim == 1 else self.load

    @cached_property
    def least_load(self) -> FloatArray:
        """(n_requests,) what a request takes at least, wherever it may be answered."""
        if self.load.ndim == 1:
            return self.load
        least: FloatArray = np.where(np.isfinite(self.value), self.load, np.inf).min(axis=1)
        return least

    def load_of(self, request: IntArray, model: IntArray) -> FloatArray:
        """(n,) what pairs take of their engines."""
        return self.load[request] if self.load.ndim == 1 else self.load[request, model]

    def more_load(self, request: IntArray, home: IntArray) -> FloatArray:
        """(n, 1) or (n, n_models): slots of each model's engine that have to be free for a request that leaves `home`.

        On its own engine a request needs only what it takes there beyond what it has. -1: it leaves none.
        """
        loads = self.loads[request]
        if self.row_of_column is None:
            return loads
        stays = (self.engine_of == self.engine_of[home][:, None]) & (home >= 0)[:, None]
        return np.where(stays, loads - self.load_of(request, home)[:, None], loads)

    @cached_property
    def value_range(self) -> float:
        """Largest less smallest value of an allowed pair, 1 if they are equal."""
        finite = np.isfinite(self.value)
        high = float(self.value.max(where=finite, initial=-np.inf))
        return high - float(self.value.min(where=finite, initial=np.inf)) or 1.0

    @property
    def budget_limit(self) -> float:
        """The budget with the rounding of a sum allowed for."""
        return self.budget * (1 + RELATIVE_SLACK)

    def sample(self, rows: IntArray) -> Program:
        """Some of the requests with their share of the limits."""
        share = len(rows) / self.n_requests
        slots = self.slots * float(self.load[rows].sum() / self.load.sum())
        limits = tuple(replace(limit, use=limit.use[rows], at_most=limit.at_most * share) for limit in self.limits)
        return replace(
            self, value=self.value[rows], cost=self.cost[rows], load=self.load[rows], slots=slots,
            budget=self.budget * share, limits=limits,
        )  # fmt: skip

    def free_prices(self) -> Prices:
        """Prices at which nothing costs anything."""
        return Prices(0.0, np.zeros(self.n_engines), np.zeros(len(self.limits)))

    def reduced(self, prices: Prices) -> FloatArray:
        """(n_requests, n_models) value less what the pair's use of the limits costs at these prices."""
        reduced = self.cost * -prices.budget
        reduced += self.value
        if prices.slots.any():
            reduced -= self.loads * prices.slots[self.engine_of]
        for limit, price in zip(self.limits, prices.limits.tolist(), strict=True):
            if price:
                reduced -= price * limit.use
        return reduced

    def bound(self, best_reduced: FloatArray, prices: Prices) -> float:
        """The Lagrangian bound: no assignment is worth more, whatever the prices >= 0."""
        bound = float(best_reduced.sum())
        if prices.budget > 0:
            bound += prices.budget * self.budget
        priced = prices.slots > 0
        bound += float(prices.slots[priced] @ self.slots[priced])
        if self.limits:
            bound += float(prices.limits @ [limit.at_most for limit in self.limits])
        return bound

    def use(self, model: IntArray) -> FloatArray:
        """(n_engines,) slots that a choice takes; requests at -1 take none."""
        placed = np.flatnonzero(model >= 0)
        chosen = model[placed]
        engine = chosen if self.row_of_column is None else self.row_of_column[chosen]
        use = np.bincount(engine, weights=self.load_of(placed, chosen), minlength=self.n_engines)
        return use.astype(np.float64)

    def worth(self, model: IntArray) -> float:
        """Objective of a choice; requests at -1 count nothing."""
        return float(picked(self.value, model).sum())

    def keeps(self, model: IntArray) -> bool:
        """Whether a choice keeps every limit."""
        if (model < 0).any() or not np.isfinite(picked(self.value, model)).all():
            return False
        return bool((self.use(model) <= self.slots).all()) and all(row.slack(model) >= 0 for row in self.rows)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Budget and limits."""
        return (Row(self.cost, self.budget), *self.limits)


def picked(array: FloatArray, model: IntArray) -> FloatArray:
    """(n_requests,) entry of the chosen model of every request; 0 where none is chosen."""
    chosen = array[np.arange(len(model)), model]
    return np.where(model >= 0, chosen, 0.0) if (model < 0).any() else chosen
