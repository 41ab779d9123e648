"""How a job goes against its plan: when to plan its rest anew, and how much of the reserve it may use up when late.

Plans leave time over, of the window and of what is left of it, so that bursts and long answers at the end make no job
late; what the slots that a job has of late can do says how fast it is, not what they could if nobody else came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.jobs.planning.plan import JobPlan
from apportion.router.jobs.planning.workload import Workload

OFF = 0.02  # of what the plan expects in all, so that the luck of some rows is no reason
DONE = 0.1  # of the rows
BEHIND = 0.25  # of the time that is left, from which on the least reserve is kept
STEPS = 4  # of the reserve
SPARE = 0.05  # of the window, that is left over for the last answers
PLANNED = 0.9  # of the rest, that plans go by
MEMORY_S = 1800.0  # of how many slots a job has had
KNOWN = 30.0  # rows that count as much as what was expected before any had ended

Reason = Literal["models", "spend", "tokens", "rows"]


def usable_s(left_s: float, window_s: float) -> float:
    """Seconds in which rows are to be answered, of those that are left of the window."""
    return max(left_s - SPARE * window_s, 0.0)


def planned_s(left_s: float, window_s: float) -> float:
    """Seconds that a plan may count on."""
    return PLANNED * usable_s(left_s, window_s)


def haste(needed_s: float, left_s: float) -> float:
    """How much of the reserve a job may use up: 0 nothing while it is in time, 1 all but the least of it.

    In steps, so that what is told of it does not flicker: all of it when the job is a quarter of what is left behind.

    Args:
        needed_s: for the rest at the pace of the moment; left_s: until the deadline, as `usable_s` has it.
    """
    if needed_s <= left_s or not math.isfinite(left_s):
        return 0.0
    behind = needed_s / left_s - 1 if left_s > 0 else math.inf
    return min(math.ceil(STEPS * min(behind / BEHIND, 1.0)) / STEPS, 1.0)


class Share:
    """How many of each engine's slots that a job could have it has had of late, (E,), while rows waited for them."""

    def __init__(self, n_engines: int) -> None:
        self.of_slots = np.ones(n_engines)

    def see(self, held: IntArray, most: IntArray, waiting: BoolArray, seconds: float) -> None:
        """Takes in how it was for some seconds.

        Args:
            held: (E,) slots that it had; most: (E,) that it could have; waiting: (E,) whether rows waited for them.
        """
        had = np.minimum(held / np.maximum(most, 1), 1.0)
        weight = 1 - math.exp(-seconds / MEMORY_S)
        self.of_slots = np.where(waiting, self.of_slots + weight * (had - self.of_slots), self.of_slots)

    def tokens_per_s(self, most: IntArray, of_slot: FloatArray) -> FloatArray:
        """(E,) tokens that engines generate for it in a second, by those of one slot; what has slots has half a one."""
        slots = most * self.of_slots
        return np.where(most > 0, np.maximum(slots, 0.5), 0.0) * of_slot


@dataclass
class Course:
    """What the rows of a plan have cost so far, beside what the plan expects of them.

    up: (M,) models that answered when the plan was made. Rows that the plan leaves out count nowhere, and of a cascade
    its first answer; the second one's tokens are counted on in `needed_s` until the next plan knows better.
    """

    plan: JobPlan
    workload: Workload
    pending: BoolArray
    up: BoolArray
    _ended: BoolArray = field(init=False, repr=False)
    _expected: FloatArray = field(init=False, repr=False)  # (2, M) USD and tokens of the rows that have ended
    _actual: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ended = ~self.pending | (self.plan.model_of_row < 0)
        self._expected, self._actual = np.zeros((2, self.workload.n_models)), np.zeros((2, self.workload.n_models))
        self._rows, self._rows_ended = int((~self._ended).sum()), 0
        rows, model = np.arange(len(self.workload)), np.maximum(self.plan.model_of_row, 0)
        self._usd = self.workload.cost_usd[rows, model]
        known = self.workload.tokens is not None
        self._tokens = self.workload.lengths()[rows, model] if known else np.zeros(len(rows))
        still = ~self._ended
        self._total = np.array([self._usd[still].sum(), self._tokens[still].sum()])
        self._later = self.plan.later_tokens(self.workload) if known else None

    def end(self, row: int, usd: float, tokens: float) -> None:
        """Takes in what a row has cost; one that has ended before, or was not pending, counts no second time."""
        if self._ended[row]:
            return
        self._ended[row] = True
        self._rows_ended += 1
        model = self.plan.model_of_row[row]
        self._expected[:, model] += (self._usd[row], self._tokens[row])
        self._actual[:, model] += (usd, tokens)

    def reason(self, up: BoolArray) -> Reason | None:
        """Why the rest is to be planned anew, None: it goes as planned.

        Args:
            up: (M,) models that answer now.
        """
        if (up != self.up).any():
            return "models"
        off = np.abs((self._actual - self._expected).sum(axis=1)) > OFF * self._total
        if off[0]:
            return "spend"
        if off[1] and self.workload.tokens is not None:
            return "tokens"
        return "rows" if 0 < DONE * len(self.workload) <= self._rows_ended < self._rows else None

    def corrected(self) -> Workload:
        """What is expected of the rows, by how dear and long each model's answers have turned out to be."""
        mean = self._total / max(self._rows, 1)
        prior = KNOWN * mean[:, None]
        usd, tokens = np.divide(
            self._actual + prior, self._expected + prior, out=np.ones_like(self._actual), where=prior > 0
        )
        return self.workload.corrected(usd, tokens)

    def needed_s(self, tokens_per_s: FloatArray) -> float:
        """Seconds for the rows that have not ended, at so many tokens a second of each engine, (E,).

        inf: one that has some has stopped; 0: lengths are unknown.
        """
        if self.workload.tokens is None:
            return 0.0
        return self.workload.seconds(np.where(self._ended, -1, self.plan.model_of_row), tokens_per_s, self._later)
