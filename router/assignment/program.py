"""The batch problem in the solver's terms: one value per pair, -inf where the pair is not allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.outcome import Prices
from apportion.router.assignment.problem import BatchProblem

# Sums of thousands of costs differ in the last digits with the order of summation.
RELATIVE_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Program:
    """max sum value x  s.t.  sum cost x <= budget,  sum load x <= slots,  one model each.

    value: (n_requests, n_models), -inf = not allowed; cost: (n_requests, n_models) >= 0;
    load: (n_requests,) >= 1; slots: (n_models,) as floats, so that a sample of the batch can have its share
    and a model can be without limit (inf); budget: a number or inf.
    """

    value: FloatArray
    cost: FloatArray
    load: FloatArray
    slots: FloatArray
    budget: float

    @classmethod
    def of(cls, problem: BatchProblem, value: FloatArray | None = None) -> Program:
        """The program of a batch, with `value` in place of its own objective if given."""
        value = problem.value if value is None else value
        if problem.allowed is not None:
            value = np.where(problem.allowed, value, -np.inf)
        return cls(
            value, problem.cost_usd, problem.load.astype(np.float64), problem.slots.astype(np.float64),
            problem.budget_usd,
        )  # fmt: skip

    @property
    def n_requests(self) -> int:
        return int(self.value.shape[0])

    @property
    def n_models(self) -> int:
        return int(self.value.shape[1])

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
        share = float(self.load[rows].sum() / self.load.sum())
        return Program(
            self.value[rows], self.cost[rows], self.load[rows], self.slots * share,
            self.budget * len(rows) / self.n_requests,
        )  # fmt: skip

    def reduced(self, prices: Prices) -> FloatArray:
        """(n_requests, n_models) value less what the pair's use of budget and slots costs at these prices."""
        reduced = self.cost * -prices.budget
        reduced += self.value
        if prices.slots.any():
            reduced -= self.load[:, None] * prices.slots
        return reduced

    def bound(self, best_reduced: FloatArray, prices: Prices) -> float:
        """The Lagrangian bound: no assignment is worth more, whatever the prices >= 0."""
        bound = float(best_reduced.sum())
        if prices.budget > 0:
            bound += prices.budget * self.budget
        priced = prices.slots > 0
        return bound + float(prices.slots[priced] @ self.slots[priced])

    def use(self, model: IntArray) -> FloatArray:
        """(n_models,) slots that a choice takes; requests at -1 take none."""
        placed = model >= 0
        use: FloatArray = np.bincount(model[placed], weights=self.load[placed], minlength=self.n_models).astype(
            np.float64
        )
        return use

    def worth(self, model: IntArray) -> float:
        """Objective of a choice; requests at -1 count nothing."""
        return float(picked(self.value, model).sum())

    def keeps(self, model: IntArray) -> bool:
        """Whether a choice keeps every limit."""
        if (model < 0).any() or not np.isfinite(picked(self.value, model)).all():
            return False
        fits = bool((self.use(model) <= self.slots).all())
        return fits and float(picked(self.cost, model).sum()) <= self.budget_limit


def picked(array: FloatArray, model: IntArray) -> FloatArray:
    """(n_requests,) entry of the chosen model of every request; 0 where none is chosen."""
    chosen = array[np.arange(len(model)), model]
    return np.where(model >= 0, chosen, 0.0) if (model < 0).any() else chosen
