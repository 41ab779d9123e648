"""Sends a job's rows: as many at once as bulk has use for, again where something failed, and never beyond the money."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol

from apportion.deployments.jobs.row_client import Answered
from apportion.router.errors import ApportionError
from apportion.router.jobs.again import LONGEST_S, Tries, What, judged, pause_s
from apportion.router.jobs.backlog import NOWHERE, Backlog

logger = logging.getLogger(__name__)

AHEAD = 2  # times the slots that bulk can have: rows that are with the Router at once
LOOK_S = 0.25  # between two looks at what may be sent again
SHORT_S = 0.5  # until money is asked for again, unless a row settles before
SHORT_TRIES = 4  # for the money of a second answer, the last of them when no other row holds any
GROWTH = 0.5  # of the rows that money is tried for at once, with each that has settled


class Office(Protocol):
    """What sending needs of its job.

    Attributes:
        attempts: that a row has, before its last failure is its result.
    """

    attempts: int

    def slots(self, column: int) -> int:
        """That bulk can have of a model."""

    async def ask(self, row: int, column: int) -> Answered:
        """Sends the row to the model; never raises an ApportionError."""

    async def keep(self, row: int, column: int, answered: Answered) -> bool:
        """Keeps the row's result; returns when that is on disk, and whether the plan may still ask another model."""

    def has_answer(self, row: int) -> bool:
        """Whether the row has a result already, which stays if there is no better one."""

    def elsewhere(self, row: int, column: int) -> int:
        """Another model for a row that has no money for this one, the cheapest; NOWHERE: there is none."""


class Sender:
    """Owns what waits and what is on its way.

    Args:
        now_s: seconds of a monotonic clock.
        finish_s: what runs when sending stops has so long to end.
    """

    def __init__(
        self, backlog: Backlog, n_models: int, office: Office, now_s: Callable[[], float], finish_s: float
    ) -> None:
        self.backlog = backlog
        self._office = office
        self._now_s = now_s
        self._finish_s = finish_s
        self._tries: dict[int, Tries] = {}  # of rows that came back
        self.flying: dict[int, int] = {}  # rows that are with the Router or at engines, and their models
        self._in_flight = [0] * n_models
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = math.inf  # rows at once that there is money for
        self._broke_until_s = -math.inf
        self.woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until no row waits that has a model, and none is on its way; or, once told to stop, none is on its way."""
        try:
            while not stop.is_set():
                self._start()
                if not self._tasks and not any(self.backlog.counts()):
                    return
                self.woken.clear()
                await self._wait(stop)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._finish_s)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _wait(self, stop: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self.woken)]
        try:
            await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _start(self) -> None:
        now_s = self._now_s()
        for column, flying in enumerate(self._in_flight):
            room = AHEAD * self._office.slots(column) - flying if now_s >= self._broke_until_s else 0
            while room > 0 and len(self._tasks) < self._most and (row := self.backlog.take(column, now_s)) is not None:
                room -= 1
                self._in_flight[column] += 1
                self.flying[row] = column
                task = asyncio.create_task(self._send(row, column))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _send(self, row: int, column: int) -> None:
        kept = False
        try:
            answered = await self._office.ask(row, column)
            error = answered.error
            kept = error is None or self._ends(row, column, error, answered.attempted)
            if kept:
                self._tries.pop(row, None)
                if await self._office.keep(row, column, answered):
                    self.backlog.move(row, NOWHERE)
                self._most += GROWTH
                self._broke_until_s = -math.inf
        except asyncio.CancelledError:
            if not kept:
                self.backlog.move(row, column)
            raise
        except Exception as error:
            logger.error("sending a row failed: %s", type(error).__name__)
            self.backlog.move(row, column, self._now_s() + LOOK_S)
        finally:
            self._in_flight[column] -= 1
            del self.flying[row]
            self.woken.set()

    def _ends(self, row: int, column: int, error: ApportionError, attempted: bool) -> bool:
        """Whether the error is the row's result; else the row waits again."""
        tries = self._tries.setdefault(row, Tries())
        what, now_s = judged(error, attempted=attempted, tries=tries), self._now_s()
        if what is What.ends or (what is What.failed and tries.attempts >= self._office.attempts):
            return True
        if what is What.unaffordable:
            other = self._office.elsewhere(row, column)
            if other == NOWHERE:
                return True
            self.backlog.move(row, other)
            return False
        if what is What.short:
            tries.short += 1
            if self._office.has_answer(row) and tries.short >= SHORT_TRIES and len(self._tasks) == 1:
                return True
            self._most = max(1.0, float(len(self._tasks) - 1))
            self._broke_until_s = now_s + min(max(error.retry_after_s or 0.0, SHORT_S), LONGEST_S)
            self.backlog.move(row, column)
        else:
            self.backlog.move(row, column, now_s + pause_s(tries, error))
        return False
