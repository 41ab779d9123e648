"""A Router's batch room under one case's load; forecasts and solver are played, and what they take does not count."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from apportion.deployments.config.service import parse_config
from apportion.deployments.control.assembly import BatchRoom
from apportion.router.assignment import Assignment, BatchProblem, Strategy, assign
from apportion.router.batch.messages import Decision, Done, EngineReplica, RouteItem, Told
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.budget import Account, Limit, Scope, Window, to_nano
from apportion.router.unpriced import Unpriced
from benchmarks.load.fleet import PRICES_USD, forecast, models
from benchmarks.room.cases import QUEUE, Case

CAP_USD = 5e-4  # a request: less than the second dearest model costs
ACCOUNTS = 50  # where keys have no budgets
EPOCH_S = 1_800_000_000.0  # the time of day that windows of budgets begin by
STEP_S = 0.006  # longer than what the queue waits for more to be freed
LIMIT_NANO = to_nano(1e6)


@dataclass
class Elsewhere:
    """What ingresses and the solver's process do; `calls` are the solver's, `cpu_s` is what all of it took here."""

    seed: int
    calls: int = 0
    cpu_s: float = 0.0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def forecast(self, count: int) -> Unpriced:
        began_s = time.thread_time()
        expected = forecast(count, self.rng)
        self.cpu_s += time.thread_time() - began_s
        return expected

    async def solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        began_s = time.thread_time()
        try:
            return assign(problem, strategy)
        finally:
            self.calls += 1
            self.cpu_s += time.thread_time() - began_s


class Clock:
    """Seconds under load: stands still while other rooms have their turn."""

    def __init__(self) -> None:
        self._at_s = 0.0
        self._since_s: float | None = None

    def __call__(self) -> float:
        return self._at_s + (0.0 if self._since_s is None else time.monotonic() - self._since_s)

    def start(self) -> None:
        self._since_s = time.monotonic()

    def stop(self) -> None:
        self._at_s, self._since_s = self(), None


@dataclass
class Measured:
    """What one slice of load took."""

    decided: int
    steps: int
    waiting: int
    cpu_s: float

    @property
    def us_per_request(self) -> float:
        return self.cpu_s / max(self.decided, 1) * 1e6


class LoadedRoom:
    """The room of a case. Nothing happens in it but under `fill` and `load`."""

    def __init__(self, case: Case, folder: Path, seed: int) -> None:
        self.case = case
        self._elsewhere = Elsewhere(seed)
        self._running: deque[str] = deque()
        self._decided = 0
        self._ids = itertools.count()
        config = parse_config(_configuration(case, folder))
        self._clock = clock = Clock()
        self._room = BatchRoom(
            config,
            self._elsewhere.solve,
            self._told,
            clock=clock,
            wall_clock=lambda: EPOCH_S + clock(),
        )
        for model in config.models:
            replica = EngineReplica(model.name, model.name, f"http://{model.name}", case.slots // len(config.models))
            self._room.reservations.fleet.announce(replica)
        limits = (Limit(Scope.key, Window.day, LIMIT_NANO, f"key-{number}") for number in range(case.keys or 0))
        self._room.reservations.spending.set_key_limits(limits)

    async def fill(self) -> None:
        """Brings the room into the case's state: slots are taken, requests wait, every key has spent today."""
        self._clock.start()
        self._arrive(self.case.slots if self.case.waiting else self.case.ending)
        await self._settled()
        self._arrive(self.case.waiting)
        await self._settled()
        for _ in range(-(-(self.case.keys or 0) // self.case.ending)):
            await self._step()
        self._clock.stop()

    async def load(self, steps: int) -> Measured:
        """So many times some requests end and as many come; the CPU of this process, but for what others would do."""
        self._clock.start()
        decided, elsewhere_s, cpu_s = self._decided, self._elsewhere.cpu_s, time.process_time()
        for _ in range(steps):
            await self._step()
        cpu_s = time.process_time() - cpu_s - (self._elsewhere.cpu_s - elsewhere_s)
        self._clock.stop()
        return Measured(self._decided - decided, steps, self._room.scheduler.waiting, cpu_s)

    async def close(self) -> None:
        """Ends what is being planned, and the ledger."""
        await self._settled()
        self._room.reservations.spending.close()

    async def _step(self) -> None:
        for _ in range(min(self.case.ending, len(self._running))):
            self._room.reservations.settle(Done(self._running.popleft(), 1e-5))
        self._room.scheduler.wake()
        self._arrive(self._coming())
        await asyncio.sleep(STEP_S)
        await self._room.scheduler.drain()

    def _coming(self) -> int:
        """How many requests keep the room in its state."""
        if self.case.waiting >= QUEUE:
            return 2 * self.case.ending
        return self.case.waiting - self._room.scheduler.waiting if self.case.waiting else self.case.ending

    async def _settled(self) -> None:
        """Returns when nothing has been planned for a while."""
        before = (-1, -1)
        while before != (self._elsewhere.calls, self._decided):
            before = (self._elsewhere.calls, self._decided)
            await asyncio.sleep(STEP_S)
            await self._room.scheduler.drain()

    def _arrive(self, count: int) -> None:
        forecast = self._elsewhere.forecast(max(count, 0))
        for row in range(count):
            number = next(self._ids)
            account = Account(f"key-{number % (self.case.keys or ACCOUNTS)}")
            item = RouteItem(f"r{number}", max_tokens=500, account=account, timeout_s=300.0)
            self._room.scheduler.submit(Entry(item, "ingress", self._clock(), forecast, row))

    def _told(self, entry: Entry, verdict: Told) -> None:
        if isinstance(verdict, Decision):
            self._running.append(entry.item.id)
            self._decided += 1


def _configuration(case: Case, folder: Path) -> dict[str, Any]:
    sections: dict[str, Any] = {"batching": {"max_queue": QUEUE}}
    if case.capped:
        sections["routing"] = {"budget_usd_per_request": CAP_USD}
    if case.keys is not None:
        database = folder / f"{case.name}.db"
        limits = [{"scope": "service", "window": "day", "usd": LIMIT_NANO / 1e9}]
        sections["budget"] = {"database": f"sqlite:///{database}", "limits": limits}
    return {"models": models(case.slots // len(PRICES_USD)), "predictor": {"artefact": "zoo:predictor"}, **sections}
