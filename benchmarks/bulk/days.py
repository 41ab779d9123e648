"""Simulated days: a job beside interactive traffic with bursts, by the service's plan, pace and reserve."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.batch.reservations.bulk_share import BulkRule, BulkShare, Demand
from apportion.router.jobs.planning.options import PlanOptions
from apportion.router.jobs.planning.pace import Course, Share, haste, planned_s, usable_s
from apportion.router.jobs.planning.plan import JobPlan, as_far_as_money_goes, plan_job, replan_job
from apportion.router.jobs.planning.workload import Means, Workload

MODELS = ("small", "medium", "large")
SLOTS = np.array([64, 48, 32])
TOKENS_PER_S = np.array([50.0, 40.0, 30.0])  # of a slot
WINDOW_S, STEP_S, LOOK_S = 8 * 3600.0, 10.0, 60.0
AS_MUCH_AS_POSSIBLE = PlanOptions(best_effort=True)
REFUSED_SHARE = 1.1  # of what all slots could generate


@dataclass(frozen=True, eq=False)
class Day:
    """interactive: (steps, M) slots that interactive requests want, more than there are in bursts."""

    interactive: IntArray
    rng: np.random.Generator

    @classmethod
    def drawn(cls, seed: int) -> Day:
        """A day whose load rises and falls between a quarter and 55 %, with bursts to 120 % of the slots."""
        rng = np.random.default_rng([seed, 7])
        steps = int(WINDOW_S / STEP_S)
        time = np.arange(steps) / steps
        share = 0.4 + 0.15 * np.sin(2 * np.pi * (time[:, None] + rng.random(len(MODELS))))
        for _ in range(rng.poisson(WINDOW_S / 2400)):
            start, length = rng.integers(steps), int(rng.uniform(300, 900) / STEP_S)
            share[start : start + length, rng.random(len(MODELS)) < 0.7] += rng.uniform(0.4, 0.8)
        noise = rng.normal(0, 1, share.shape) * np.sqrt(np.maximum(share, 0) * SLOTS)
        return cls(np.maximum(np.rint(share * SLOTS + noise), 0).astype(np.int64), rng)

    def spare(self) -> float:
        """Tokens that the slots could generate which interactive requests leave free."""
        free = np.maximum(SLOTS - self.interactive, 0)
        return float((free * TOKENS_PER_S).sum() * STEP_S)

    def job(self, tokens: float, rows: int) -> tuple[Workload, FloatArray]:
        """Rows of so many tokens in all, and the tokens (N, M) that they really have: noisy, and longer on some."""
        lengths = self.rng.lognormal(0, 0.7, rows)
        lengths = np.maximum(np.rint(lengths * tokens / lengths.sum()), 1.0)
        quality, difficulty = np.array([0.45, 0.6, 0.75]), self.rng.beta(2, 2, (rows, 1))
        success = np.clip(quality - 0.5 * (difficulty - 0.5) + self.rng.normal(0, 0.05, (rows, 3)), 0.01, 0.99)
        cost = lengths[:, None] * np.array([1.0, 4.0, 12.0]) * 1e-7
        bias = self.rng.uniform(0.95, 1.15, 3)
        real = lengths[:, None] * bias * self.rng.lognormal(-0.08, 0.4, (rows, 3))
        return Workload(success, cost, lengths), real


@dataclass
class Run:
    """A job on its day."""

    day: Day
    workload: Workload
    real: FloatArray
    bulk: BulkShare = field(default_factory=lambda: BulkShare(MODELS, BulkRule()))

    def __post_init__(self) -> None:
        n = len(self.workload)
        self.waiting, self.done = np.ones(n, np.bool_), 0
        self.running: list[tuple[float, int, int]] = []
        self.used = np.zeros(len(MODELS), np.int64)
        self.queues: list[list[int]] = [[] for _ in MODELS]
        self.plans, self.kept_waiting, self.wanted = 0, 0, 0
        self.hastes: list[float] = []
        self.share = Share(len(MODELS))

    def go(self) -> dict[str, Any]:
        """What became of it."""
        budget = float(np.quantile(self.workload.cost_usd, 0.6, axis=1).sum())
        found = plan_job(self.workload, self._means(budget, WINDOW_S))
        if not isinstance(found, JobPlan):
            return {"refused": True, "said": found.missing}
        self._begin(found, self.workload, self.waiting.copy())
        spent, now = 0.0, 0.0
        for step, wanted in enumerate(self.day.interactive):
            now = step * STEP_S
            spent += self._finish(now)
            if self.done == len(self.workload):
                break
            self._start(now, wanted)
            if now % LOOK_S == 0 and now:
                self._look(budget - spent, WINDOW_S - now)
        late = len(self.workload) - self.done
        return {
            "refused": False, "kept": late == 0, "rows_late": late, "ended_share": now / WINDOW_S,
            "spend": spent / budget, "plans": self.plans, "haste": float(np.mean(self.hastes)),
            "waiting": self.kept_waiting / max(self.wanted, 1),
        }  # fmt: skip

    def _means(self, usd: float, left_s: float) -> Means:
        return Means(max(usd, 0.0), planned_s(left_s, WINDOW_S), self._rates())

    def _rates(self) -> FloatArray:
        return self.share.tokens_per_s(self.bulk.most(SLOTS), TOKENS_PER_S)

    def _begin(self, plan: JobPlan, workload: Workload, pending: Any) -> None:
        self.plans += 1
        self.course = Course(plan, workload, pending, np.ones(len(MODELS), np.bool_))
        rows = np.flatnonzero(self.waiting)
        self.queues = [rows[plan.model_of_row[rows] == j].tolist() for j in range(len(MODELS))]

    def _finish(self, now: float) -> float:
        spent = 0.0
        while self.running and self.running[0][0] <= now:
            _, row, model = heapq.heappop(self.running)
            self.used[model] -= 1
            self.done += 1
            ratio = self.real[row, model] / self.workload.lengths()[row, model]
            usd = float(self.workload.cost_usd[row, model] * ratio)
            self.course.end(row, usd, float(self.real[row, model]))
            spent += usd
        return spent

    def _start(self, now: float, wanted: IntArray) -> None:
        served = np.minimum(wanted, SLOTS - self.used)
        short = np.minimum(wanted, SLOTS) - served
        self.kept_waiting += int(short.sum())
        self.wanted += int(wanted.sum())
        self.bulk.demand = lambda: Demand(models=sum(1 << j for j in np.flatnonzero(short).tolist()))
        free = self.bulk.free(SLOTS, SLOTS - self.used - served, self.used)
        for j, queue in enumerate(self.queues):
            for _ in range(min(int(free[j]), len(queue))):
                row = queue.pop()
                self.waiting[row] = False
                self.used[j] += 1
                heapq.heappush(self.running, (now + self.real[row, j] / TOKENS_PER_S[j], row, j))
        waiting = np.array([bool(queue) for queue in self.queues])
        self.share.see(self.used, self.bulk.most(SLOTS), waiting, STEP_S)

    def _look(self, left_usd: float, left_s: float) -> None:
        needed_s = self.course.needed_s(self._rates())
        before, self.bulk.haste = self.bulk.haste, haste(needed_s, usable_s(left_s, WINDOW_S))
        self.hastes.append(self.bulk.haste)
        if self.course.reason(np.ones(len(MODELS), np.bool_)) is None and self.bulk.haste <= before:
            return
        flying = sum(float(self.course.workload.cost_usd[row, model]) for _, row, model in self.running)
        corrected = self.course.corrected()
        again = replan_job(
            corrected,
            self.course.plan,
            self.waiting,
            self._means(left_usd - flying, left_s),
            AS_MUCH_AS_POSSIBLE,
        )
        if isinstance(again, JobPlan):
            again = as_far_as_money_goes(corrected, again, left_usd - flying)
            self._begin(again, corrected, self.waiting.copy())


def run_day(seed: int, rows: int, share: float | None) -> dict[str, Any]:
    """One day and its job.

    Args:
        share: of the tokens that interactive requests leave free, which the job needs; None: more than all slots give.
    """
    day = Day.drawn(seed)
    every = float((SLOTS * TOKENS_PER_S).sum() * WINDOW_S)
    workload, real = day.job(REFUSED_SHARE * every if share is None else share * day.spare(), rows)
    return {"seed": seed, "share": share, "spare_share": day.spare() / every} | Run(day, workload, real).go()
