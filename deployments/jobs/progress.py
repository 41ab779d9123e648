"""How far a job is: for its owner, for the Router, and for the next runner."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apportion.deployments.jobs.planning import Wishes
from apportion.router.arrays import FloatArray
from apportion.router.jobs.planning.plan import JobPlan
from apportion.router.jobs.segments import Totals
from apportion.router.variants import engines_of


@dataclass
class Progress:
    """What is told.

    Args:
        totals: of the results.
        wishes: of the job's owner.

    Attributes:
        spent_nano: as the ledger has it.
        plan: of the rows that were pending when it was made.
        planned_usd: that the whole job is expected to cost.
        left_s: until it is expected to be done; None: nobody knows.
        haste: 0: it is in time; up to 1: it needs of the reserve.
        reserve: slots of each model that are left free for others.
    """

    wishes: Wishes
    totals: Totals = field(default_factory=Totals)
    spent_nano: int = 0
    plan: JobPlan | None = None
    planned_usd: float | None = None
    left_s: float | None = None
    haste: float = 0.0
    reserve: Mapping[str, int] = field(default_factory=dict)

    def planned(self, plan: JobPlan, spent_usd: float) -> None:
        """There is a new plan for what is pending, beside what is spent."""
        self.plan, self.planned_usd = plan, spent_usd + plan.planned_usd

    def fields(self, models: tuple[str, ...]) -> dict[str, Any]:
        """Of the job's record."""
        totals = self.totals
        return {
            "completed": totals.completed,
            "failed": totals.failed,
            "spent_nano": max(self.spent_nano, totals.cost_nano),
            "tokens": totals.tokens,
            "told": self._told(models),
        }

    def _told(self, models: tuple[str, ...]) -> Mapping[str, Any]:
        told: dict[str, Any] = {"by_model": dict(self.totals.by_model)}
        if self.totals.first_answers:
            told["cascades"] = {"first_answers": self.totals.first_answers, "asked_on": self.totals.asked_on}
        if self.left_s is not None:
            told["eta"] = int(time.time() + self.left_s)
        if self.reserve:
            told |= {"reserve": dict(self.reserve), "haste": self.haste}
        if self.plan is not None:
            plan = self.plan
            told |= {
                "planned_usd": self.planned_usd,
                "objective": plan.objective,
                "bound": plan.bound,
                "prices": {"usd": plan.prices.budget, "tokens": _by_engine(models, plan.prices.slots)},
                "planned_by_model": plan.by_model(models),
            }
        return told


def _by_engine(models: tuple[str, ...], values: FloatArray) -> dict[str, float]:
    return {name: value for name, value in zip(engines_of(models)[0], values.tolist(), strict=True) if value}
