"""Plans a job's rows, at first and again as money and time turn out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from apportion.deployments.jobs.cascading import Cascading
from apportion.deployments.jobs.expectations import Expected
from apportion.deployments.wire.bulk import BulkState
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.budget import to_nano
from apportion.router.jobs.backlog import NOWHERE
from apportion.router.jobs.lines import LineMistake
from apportion.router.jobs.planning.cascades import with_cascades
from apportion.router.jobs.planning.options import PlanOptions
from apportion.router.jobs.planning.pace import Course, Share
from apportion.router.jobs.planning.plan import JobPlan, as_far_as_money_goes, plan_job
from apportion.router.jobs.planning.shortfall import Shortfall
from apportion.router.jobs.planning.workload import Means, Workload
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import LAYERS, Unpriced
from apportion.router.variants import engines_of, model_of

UNKNOWN_TOKENS_PER_S = 1e9  # of an engine that has not answered of late: time is no limit until it has
CODES = {
    "budget": "budget_exceeded",
    "deadline": "deadline_infeasible",
    "both": "budget_exceeded",
    "models": "model_not_found",
}


def failure_of(shortfall: Shortfall) -> dict[str, Any]:
    """As it stands in `errors.data` of a batch."""
    return LineMistake(CODES[shortfall.missing], shortfall.message, "routing").told()


@dataclass(frozen=True)
class Wishes:
    """What a job asks of its plan.

    Args:
        budget_usd: that it may cost; None: any.
        best_effort: plan as much as possible where not all can be.
        cascade: rows may have two answers, if the service has them have two.
    """

    budget_usd: float | None = None
    best_effort: bool = False
    cascade: bool = True

    @classmethod
    def of(cls, routing: dict[str, Any]) -> Wishes:
        """Those of a job's `routing`."""
        return cls(routing.get("budget_usd"), bool(routing.get("best_effort")), routing.get("cascade", True))

    @property
    def budget_nano(self) -> int | None:
        return None if self.budget_usd is None else to_nano(self.budget_usd)


class Planner:
    """Plans rows of a job, and hears what they have cost.

    Args:
        expected: of all rows.
        models: names.
        cascading: first answers that are held, and models that may be asked on.

    Attributes:
        may: (N, M), models that may answer a row and that it has money for, as far as that is known.
        course: of the last plan; None: there is none yet.
    """

    def __init__(self, expected: Expected, models: tuple[str, ...], cascading: Cascading) -> None:
        self._expected = expected
        self._models = models
        self._cascading = cascading
        self.may = expected.may.copy()
        self.course: Course | None = None
        self._engines, self._engine_of = engines_of(models)
        self._share = Share(len(self._engines))
        self._generated = np.zeros(len(self._engines))  # tokens, since somebody looked
        self._prices: tuple[ModelPrice, ...] = ()
        self._workload = Workload(np.zeros(self.may.shape), np.zeros(self.may.shape))

    def plan(
        self, pending: BoolArray, state: BulkState, *, left_usd: float, left_s: float, best_effort: bool
    ) -> JobPlan | Shortfall:
        """The models of the pending rows, (N,) with NOWHERE for all others; blocks, for seconds where there are many.

        Args:
            left_usd: that they may cost; infinite: any.
            left_s: that they have.
        """
        workload = self._expectation(state)
        there = self.there(state)
        rates = self.rates(state)
        timed = bool((rates < UNKNOWN_TOKENS_PER_S).any())
        means = Means(left_usd, left_s if timed else math.inf, rates if timed else None)
        held = self._cascading.held.rows
        # Who has an answer asks for another one only of a model that is there.
        allowed = np.where(held[:, None], self.may & there, _allowed(self.may, there))
        asked = replace(workload, allowed=allowed)
        fresh = pending & ~held
        warm = None if self.course is None else self.course.plan.prices
        found = plan_job(asked.rows(fresh), means, PlanOptions(best_effort=best_effort), warm=warm)
        if isinstance(found, Shortfall):
            return found
        further = found if self.course is None else as_far_as_money_goes(asked.rows(fresh), found, left_usd)
        plan = self._with_cascades(asked, pending, means, found.among(fresh), further.among(fresh), on=state.cascade)
        self.course = Course(plan, workload, pending, there)
        self._workload = workload
        self._cascading.planned(pending, plan)
        return plan

    def _with_cascades(
        self, asked: Workload, pending: BoolArray, means: Means, plain: JobPlan, further: JobPlan, *, on: bool
    ) -> JobPlan:
        """The plan of all rows with cascades.

        Args:
            further: the plain plan with the rows that it leaves out and that there is money for, which comes first.
            on: whether the service has cascades.
        """
        plan, beyond_usd = plain, further.planned_usd - plain.planned_usd
        if on:
            left = replace(means, budget_usd=max(means.budget_usd - beyond_usd, 0.0))
            alone = replace(plain, model_of_row=plain.model_of_row[pending])
            stages, pairs = self._cascading.stages(pending), self._cascading.pairs
            found = with_cascades(asked.rows(pending), left, alone, stages, pairs, self._models)
            plan = found.among(pending)
        beyond = (plain.model_of_row < 0) & (further.model_of_row >= 0)
        model = np.where(beyond, further.model_of_row, plan.model_of_row)
        return replace(plan, model_of_row=model, planned_usd=plan.planned_usd + beyond_usd)

    def ended(self, row: int, column: int, usd: float, tokens: float) -> None:
        """A row was answered by the model, at this cost."""
        self._generated[self._engine_of[column]] += tokens
        if self.course is not None:
            self.course.end(row, usd, tokens)

    def look(self, state: BulkState, waiting: Sequence[int], seconds: float) -> None:
        """Takes in how many slots the job has had for so long.

        Args:
            waiting: (M,), rows that wait for each model or variant.
        """
        most, of_slot = self._slots(state)
        held = np.divide(self._generated, of_slot * seconds, out=np.zeros(len(most)), where=of_slot > 0)
        wanted = np.bincount(self._engine_of, weights=waiting, minlength=len(most)) > 0
        self._share.see(held, most, wanted & (of_slot > 0), seconds)
        self._generated[:] = 0.0

    def expected_usd(self, row: int, column: int) -> float:
        """That the row costs on the model, and what it is expected to cost if it is asked on."""
        later, escalation = self._cascading.later(row, column)
        return float(self._workload.cost_usd[row, column] + escalation * self._workload.cost_usd[row, later])

    def cheapest(self, row: int) -> int:
        """The model that is expected to cost the row least, of those that may answer it; NOWHERE: there is none."""
        may = self.may[row]
        return int(np.where(may, self._workload.cost_usd[row], np.inf).argmin()) if may.any() else NOWHERE

    def rates(self, state: BulkState) -> FloatArray:
        """(E,) tokens a second that each engine generates for the job, by the slots that it has had of late."""
        most, of_slot = self._slots(state)
        known = (most > 0) & (of_slot > 0)
        return np.where(known, self._share.tokens_per_s(most, of_slot), UNKNOWN_TOKENS_PER_S)

    def _slots(self, state: BulkState) -> tuple[IntArray, FloatArray]:
        """(E,) slots that bulk can have, and tokens a second of each; 0: not known."""
        known = {model_of(name): speed for name, speed in state.tokens_per_s.items()}  # variants have their model's
        most = np.array([state.slots.get(engine, 0) for engine in self._engines], dtype=np.int64)
        return most, np.array([known.get(engine, 0.0) for engine in self._engines])

    def there(self, state: BulkState) -> BoolArray:
        """(M,) models that have slots for bulk."""
        return np.array([state.slots.get(model_of(name), 0) > 0 for name in self._models])

    def needed_s(self, state: BulkState) -> float | None:
        """Seconds for the rows that have not ended; None: nobody knows."""
        if self.course is None or not (rates := self.rates(state)).min() < UNKNOWN_TOKENS_PER_S:
            return None
        return self.course.needed_s(rates)

    def _expectation(self, state: BulkState) -> Workload:
        """Of all rows: by how dear and long answers have turned out to be, at the prices of the moment."""
        if self.course is not None and state.prices == self._prices:
            return self.course.corrected()
        estimates = Unpriced(self._models, self._expected.table).priced(state.prices)
        self._prices = state.prices
        tokens = self._expected.table[LAYERS.index("answered_tokens")].astype(float)
        return Workload(estimates.success, estimates.cost_usd, tokens, row_of_column=self._engine_of)


def _allowed(may: BoolArray, there: BoolArray) -> BoolArray:
    """Models that are gone answer only rows that have no other."""
    now: BoolArray = may & there
    allowed: BoolArray = np.where(now.any(axis=1, keepdims=True), now, may)
    return allowed
