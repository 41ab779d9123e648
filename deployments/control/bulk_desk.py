"""The Router's side of bulk jobs: what it tells their runners, and what they have told of their jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from apportion.deployments.control.speeds import Stopwatch
from apportion.deployments.wire.bulk import BulkState, RunnerReport
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.reservations.fleet import Fleet
from apportion.router.budget import from_nano
from apportion.router.prices import ModelPrice

RUNNER_TTL_S = 15.0  # a runner unheard of for so long is gone; another one goes on with its jobs


class BulkDesk:
    """Hears of every runner once a second.

    Args:
        stopwatch: knows how fast models are.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        fleet: Fleet,
        spending: Spending,
        stopwatch: Stopwatch,
        clock: Callable[[], float],
    ) -> None:
        self._names = names
        self._fleet = fleet
        self._spending = spending
        self._clock = clock
        self._stopwatch = stopwatch
        self._runners: dict[str, tuple[float, RunnerReport]] = {}
        self._spent_nano: dict[str, tuple[int, int]] = {}

    async def told(self, report: RunnerReport, prices: tuple[ModelPrice, ...], *, cascade: bool) -> BulkState:
        """Takes a runner's report, and answers it.

        Args:
            prices: that rows of jobs pay.
            cascade: whether they may have two answers.

        Raises:
            LedgerError: the database does not answer.
        """
        self._runners[report.runner] = self._clock(), report
        self._forget()
        balances = await self._spending.of_jobs([job.id for job in report.jobs])
        spent_nano = {job: (one.spent_nano, one.reserved_nano) for job, one in balances.items()}
        known = {job.id for _, other in self._runners.values() for job in other.jobs}
        self._spent_nano = {job: one for job, one in (self._spent_nano | spent_nano).items() if job in known}
        asleep = np.flatnonzero(self._fleet.asleep()).tolist()
        slots = self._most() | {self._names[column]: 1 for column in asleep}  # what is sent there wakes it
        return BulkState(slots, prices, self._stopwatch.tokens_per_s(), spent_nano, self._reserve(), cascade)

    def knows(self, name: str) -> bool:
        """Whether a runner of that name has reported of late."""
        return name in self._runners

    def describe(self) -> dict[str, Any]:
        """The jobs, and what they may have of the models, as JSON."""
        self._forget()
        used = self._fleet.used_by_bulk().tolist()
        jobs = [
            dataclasses.asdict(job)
            | {"spent_usd": from_nano(self._spent_nano.get(job.id, (0, 0))[0]), "runner": report.runner}
            for _, report in self._runners.values()
            for job in report.jobs
        ]
        return {
            "jobs": jobs,
            "slots": self._most(),
            "slots_used": dict(zip(self._names, used, strict=True)),
            "reserve": self._reserve(),
        }

    def _most(self) -> dict[str, int]:
        capacity = self._fleet.capacity()
        return dict(zip(self._names, self._fleet.bulk.most(capacity).tolist(), strict=True))

    def _reserve(self) -> dict[str, int]:
        capacity = self._fleet.capacity()
        return dict(zip(self._names, self._fleet.bulk.reserve(capacity).tolist(), strict=True))

    def _forget(self) -> None:
        now_s = self._clock()
        self._runners = {name: one for name, one in self._runners.items() if now_s - one[0] <= RUNNER_TTL_S}
        self._fleet.bulk.haste = max((report.haste for _, report in self._runners.values()), default=0.0)
