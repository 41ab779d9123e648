"""Plans a job's rows, and plans them again as money, speed and models turn out."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from apportion.deployments.jobs.desk import RouterDesk
from apportion.deployments.jobs.planning import Planner
from apportion.deployments.jobs.progress import Progress
from apportion.deployments.jobs.sending import Sender
from apportion.deployments.wire.bulk import BulkState
from apportion.router.arrays import BoolArray
from apportion.router.budget import from_nano
from apportion.router.jobs.planning.pace import haste, planned_s, usable_s
from apportion.router.jobs.planning.shortfall import Shortfall

logger = logging.getLogger(__name__)

LOOK_S = 2.0
LATE_S = 60.0  # between two plans that are made because a job has got later


class Steering:
    """Keeps a job's plan, and what is told of it, up to date.

    Args:
        time_s: that is left of the job's window.
        window_s: the whole of it.
    """

    def __init__(
        self,
        job: str,
        planner: Planner,
        sender: Sender,
        desk: RouterDesk,
        progress: Progress,
        time_s: Callable[[], float],
        window_s: float,
    ) -> None:
        self._job = job
        self._planner = planner
        self._sender = sender
        self._desk = desk
        self._progress = progress
        self._time_s = time_s
        self._window_s = window_s
        self._planned_left_s = math.inf

    async def plan(self, pending: BoolArray, *, best_effort: bool) -> Shortfall | None:
        """Gives the pending rows their models, or says what is missing for that."""
        state, progress = await self._desk.known(), self._progress
        self._hear(state)
        budget_usd, spent_nano = progress.wishes.budget_usd, max(progress.spent_nano, progress.totals.cost_nano)
        committed_usd = from_nano(spent_nano) + self._flying_usd()
        found = await asyncio.to_thread(
            self._planner.plan,
            pending,
            state,
            left_usd=math.inf if budget_usd is None else max(budget_usd - committed_usd, 0.0),
            left_s=planned_s(self._time_s(), self._window_s),
            best_effort=best_effort,
        )
        if isinstance(found, Shortfall):
            return found
        self._sender.backlog.place(found.model_of_row)
        self._sender.woken.set()
        self._planned_left_s = self._time_s()
        progress.planned(found, committed_usd)
        return None

    async def steer(self) -> None:
        """Looks every few seconds, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            state, course = self._desk.state, self._planner.course
            if state is None or course is None:
                continue
            self._planner.look(state, self._sender.backlog.counts(), LOOK_S)
            before = self._progress.haste
            self._hear(state)
            later = self._progress.haste > before and self._planned_left_s - self._time_s() > LATE_S
            reason = course.reason(self._planner.there(state)) or ("it has got later" if later else None)
            pending = self._sender.backlog.waiting
            if pending.any() and reason is not None:
                failure = await self.plan(pending, best_effort=True)
                logger.info("%s: %d rows are planned anew: %s", self._job, pending.sum(), reason)
                if failure is not None:
                    logger.warning("%s keeps its plan: %s", self._job, failure.message)

    def _hear(self, state: BulkState) -> None:
        progress, needed_s = self._progress, self._planner.needed_s(state)
        progress.spent_nano = state.spent_nano.get(self._job, (progress.spent_nano, 0))[0]
        progress.left_s = needed_s if needed_s is not None and math.isfinite(needed_s) else None
        progress.reserve = state.reserve
        progress.haste = 0.0 if needed_s is None else haste(needed_s, usable_s(self._time_s(), self._window_s))

    def _flying_usd(self) -> float:
        """What rows on their way are expected to cost."""
        return sum(self._planner.expected_usd(row, column) for row, column in self._sender.flying.items())
