"""One Router under a case's load: the real one, between played ingresses, engines and solver."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from apportion.deployments.config.service import parse_config
from apportion.deployments.control.router import Router
from apportion.deployments.wire.garbage import freeze
from apportion.deployments.wire.packing import pack, unpack
from apportion.router.assignment import Assignment, BatchProblem, Strategy, assign
from apportion.router.batch.messages import Decision, Done, EngineReplica, Reply, Report, RouteItem
from apportion.router.budget import Account, Limit, Scope, Window, to_nano
from benchmarks.ceiling.cases import Case
from benchmarks.load.fleet import PRICES_USD, forecast, models

CAP_USD = 5e-4  # a request: less than the second dearest model costs
BATCH = 256
REPLICA_SLOTS = 256
LIMIT_NANO = to_nano(1e6)


class Elsewhere:
    """Counts CPU of this thread that other processes would take."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def __enter__(self) -> None:
        self._began_s = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.cpu_s += time.thread_time() - self._began_s


class _Remote:
    """A deployment handle's method."""

    def __init__(self, method: Any) -> None:
        self.remote = method


class _Solver:
    """As the Router calls it."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self.elsewhere = elsewhere
        self.solve = _Remote(self._solve)

    async def _solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        with self.elsewhere:
            return assign(problem, strategy)


@dataclass(frozen=True)
class Measured:
    """What one Router did under load.

    Args:
        decided: requests.
        refused: requests, since the queue was full.
        exchanges: with ingresses.
        cpu_s: of the Router's process.
        waiting: requests at the end.
        in_flight: requests at the end.
        memory_mib: that the Router took since before it was made.
    """

    decided: int
    refused: int
    exchanges: int
    cpu_s: float
    waiting: int = 0
    in_flight: int = 0
    memory_mib: float = 0.0

    @property
    def us_per_decision(self) -> float:
        return self.cpu_s / max(self.decided, 1) * 1e6

    def since(self, before: Measured) -> Measured:
        """What was done since then."""
        return replace(
            self,
            decided=self.decided - before.decided,
            refused=self.refused - before.refused,
            exchanges=self.exchanges - before.exchanges,
            cpu_s=self.cpu_s - before.cpu_s,
        )


class LoadedRouter:
    """The Router of a case."""

    def __init__(self, case: Case, folder: Path, seed: int) -> None:
        self.case = case
        self.elsewhere = Elsewhere()
        config = parse_config(_configuration(case, folder))
        self.rng = np.random.default_rng(seed)
        deployed: Any = Router
        self._router = deployed.func_or_class(config, _Solver(self.elsewhere), {}, {})
        self._router.reconfigure(config.routing.model_dump())
        limits = (Limit(Scope.key, Window.month, LIMIT_NANO, f"key-{number}") for number in range(case.accounts))
        if case.budgets:
            self._router._reservations.spending.set_key_limits(limits)
        numbers = itertools.count()
        self._ingresses = [_Ingress(self, one, numbers) for one in range(case.ingresses)]
        self._tasks: list[asyncio.Task[None]] = []
        self._enough = asyncio.Event()
        self.closing = False
        self._until = self.decided = self.refused = self.exchanges = 0

    async def start(self) -> None:
        """Engines announce themselves, and ingresses begin to send."""
        await self._announce()
        self._tasks = [asyncio.create_task(work) for work in (self._heartbeats(), *(i.run() for i in self._ingresses))]

    async def decides(self, requests: int) -> Measured:
        """Returns when so many more requests have been decided; what was done since the start."""
        self._until = self.decided + requests
        self._enough.clear()
        stopped = asyncio.create_task(self._enough.wait())
        done, _ = await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        state = self._router._scheduler.waiting, self._router._reservations.fleet.in_flight
        return Measured(self.decided, self.refused, self.exchanges, time.process_time() - self.elsewhere.cpu_s, *state)

    async def close(self) -> None:
        """Ends what is being planned, and the ledger."""
        self.closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._router._housekeeping.stop()
        await self._router._scheduler.drain()
        self._router._reservations.spending.close()

    async def exchange(self, data: bytes) -> bytes:
        """As a process of its own gets and gives it."""
        report, wait = unpack(data)
        reply = await self._router.exchange(report, wait)
        return pack(reply)

    def heard(self, reply: Reply, decided: int) -> None:
        """An ingress has its reply."""
        self.exchanges += 1
        self.decided += decided
        self.refused += len(reply.verdicts) - decided
        if self.decided >= self._until:
            self._enough.set()

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self._announce()

    async def _announce(self) -> None:
        for replica in _replicas(self.case):
            await self._router.announce(replica)


class _Ingress:
    """Sends requests and ends them, as many as the case has; what it does is not the Router's."""

    def __init__(self, router: LoadedRouter, number: int, numbers: Iterator[int]) -> None:
        case = router.case
        self._router = router
        self._numbers = numbers
        self._name = f"ingress-{number}"
        self._reports = itertools.count(1)
        self._running: deque[str] = deque()
        self._most_running = (case.in_flight * 3 // 4 if case.full else case.in_flight) // case.ingresses
        self._undecided = 0
        self._most_undecided = (case.places + case.in_flight if case.full else BATCH) // case.ingresses

    async def run(self) -> None:
        coming = self._most_undecided
        while not self._router.closing:  # a cancel that meets a reply is lost (CPython 3.11)
            with self._router.elsewhere:
                done = [Done(self._running.popleft(), 1e-5) for _ in range(len(self._running) - self._most_running)]
                if self._router.case.full:
                    coming += 2 * len(done)
                else:
                    coming = self._most_undecided - self._undecided
                items = [_item(next(self._numbers), self._router.case) for _ in range(coming)]
                self._undecided, coming = self._undecided + len(items), 0
                report = Report(self._name, next(self._reports), items=tuple(items), done=tuple(done))
                if items:
                    report = replace(report, forecast=forecast(len(items), self._router.rng))
                data = pack((report, True))
            answer = await self._router.exchange(data)
            with self._router.elsewhere:
                reply: Reply = unpack(answer)
                decided = [verdict.id for verdict in reply.verdicts if isinstance(verdict, Decision)]
                self._running.extend(decided)
                self._undecided -= len(reply.verdicts)
                self._router.heard(reply, len(decided))


async def measured(case: Case, folder: Path, seed: int, requests: int) -> Measured:
    """What the Router of a case takes for so many requests, once the case's state is reached."""
    before_bytes = psutil.Process().memory_full_info().uss
    router = LoadedRouter(case, folder, seed)
    freeze()  # as in the service
    await router.start()
    try:
        before = await router.decides(max(2 * case.in_flight, case.accounts))
        after = await router.decides(requests)
        memory_mib = (psutil.Process().memory_full_info().uss - before_bytes) / 2**20
        return replace(after.since(before), memory_mib=memory_mib)
    finally:
        await router.close()


def _item(number: int, case: Case) -> RouteItem:
    account = Account(f"key-{number % case.accounts}")
    return RouteItem(f"{number:032x}", max_tokens=500, account=account, timeout_s=300.0)


def _slots(case: Case) -> int:
    """Of each model: all that is in flight together in a full queue, else more than is ever needed."""
    return case.in_flight // len(PRICES_USD) if case.full else case.in_flight + 2 * BATCH


def _replicas(case: Case) -> list[EngineReplica]:
    count = -(-_slots(case) // REPLICA_SLOTS)
    return [
        EngineReplica(f"{name}-{number}", name, "http://10.0.0.1:8000", _slots(case) // count)
        for name in PRICES_USD
        for number in range(count)
    ]


def _configuration(case: Case, folder: Path) -> dict[str, Any]:
    sections: dict[str, Any] = {"batching": {"max_queue": case.places}}
    if case.capped:
        sections["routing"] = {"budget_usd_per_request": CAP_USD}
    if case.ledger:
        limits = [{"scope": "service", "window": "month", "usd": LIMIT_NANO / 1e9}]
        sections["budget"] = {"database": f"sqlite:///{folder / 'ledger.db'}", "limits": limits}
    return {"models": models(REPLICA_SLOTS), "predictor": {"artefact": "zoo:predictor"}, **sections}
