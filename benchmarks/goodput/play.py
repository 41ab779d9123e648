"""One load under one policy: the Router's real parts from forecast to settlement, engines and time simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from apportion.deployments.config.service import parse_config
from apportion.deployments.control.assembly import BatchRoom
from apportion.router.arrays import FloatArray
from apportion.router.assignment import Assignment, BatchProblem, Strategy, assign
from apportion.router.batch.events import Events
from apportion.router.batch.messages import Course, Decision, Done, EngineReplica, RouteItem, Told
from apportion.router.batch.scheduling.decider import Decider
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.errors import ApportionError
from apportion.router.unpriced import Unpriced
from benchmarks.goodput.engines import SLOTS, SPEEDS, Engines
from benchmarks.load.arrivals import poisson_arrivals_s
from benchmarks.load.fleet import PRICES_USD, forecast, models

TICK_S = 0.05  # of the virtual time
LENGTH_SPREAD = 0.4  # of the logarithm of an answer's length around what was expected
WARM = 0.2  # of the requests, by which speeds are learned before it counts
NAMES = tuple(SPEEDS)


@dataclass(frozen=True)
class Load:
    """Requests with their arrivals, what is expected of them, and (N, M) how long their answers will be."""

    arrivals_s: Sequence[float]
    expected: Unpriced
    answers: FloatArray

    @classmethod
    def draw(cls, rate_per_s: float, seconds: float, seed: int) -> Load:
        """Poisson arrivals; answers are log-normal around their expected lengths."""
        rng = np.random.default_rng(seed)
        count = max(round(rate_per_s * seconds), 1)
        expected = forecast(count, rng)
        spread = rng.lognormal(-(LENGTH_SPREAD**2) / 2, LENGTH_SPREAD, (count, 1))
        answers = np.maximum(np.rint(expected.layer("output_tokens") * spread), 1.0)
        return cls(poisson_arrivals_s(count, rate_per_s, seed), expected, answers)


@dataclass
class Played:
    """What became of the requests that count: times from arrival to the last token, and of their models' success."""

    seconds: list[float] = field(default_factory=list)
    success: list[float] = field(default_factory=list)
    cost_usd: list[float] = field(default_factory=list)
    models: list[int] = field(default_factory=list)
    refused: int = 0


def play(load: Load, **routing: float | None) -> Played:
    """All of the load through a Router with this routing."""
    return asyncio.run(_Play(load, routing).run())


class _Play:
    """The desk of the Decider, and whoever sends and ends requests."""

    def __init__(self, load: Load, routing: dict[str, float | None]) -> None:
        self._load = load
        self._now_s = 0.0
        config = parse_config({"models": models(SLOTS), "predictor": {"artefact": "zoo:predictor"}, "routing": routing})
        self._room = BatchRoom(config, _solve, self.tell, clock=self._clock, wall_clock=self._clock)
        for name in NAMES:
            self._room.reservations.fleet.announce(EngineReplica(name, name, f"http://{name}", SLOTS))
        self._policy = self._room.policy(config.routing)
        self._decider = Decider(
            self._room.planner,
            self._room.reservations,
            self._room.drift.lengths,
            self._room.stopwatch.speeds,
            self._clock,
            patience_s=config.batching.aging_s,
            settle_s=0.0,
            events=Events(),
            wall_clock=self._clock,
        )
        self._engines = Engines()
        self._waiting: list[Entry] = []
        self._decided: dict[str, tuple[Entry, Decision]] = {}
        self._counts_from = int(WARM * len(load.arrivals_s))
        self._played = Played()

    async def run(self) -> Played:
        came, count = 0, len(self._load.arrivals_s)
        while came < count or self._waiting or self._engines.names:
            self._now_s += TICK_S
            ended = self._engines.pass_time(TICK_S)
            for name in ended:
                self._end(name)
            before = came
            while came < count and self._load.arrivals_s[came] <= self._now_s:
                item = RouteItem(str(came))
                arrived_s = self._load.arrivals_s[came]
                self._waiting.append(Entry(item, "ingress", arrived_s, self._load.expected, came))
                came += 1
            if self._waiting and (ended or came > before):
                await self._plan()
        self._room.reservations.spending.close()
        return self._played

    async def _plan(self) -> None:
        """As many as there are slots for, in the order in which they came."""
        free = int(self._room.reservations.fleet.free_slots().sum())
        batch, rest = self._waiting[:free], self._waiting[free:]
        if batch:
            left = await self._decider.decide(batch, self._policy, self)
            self._waiting = [entry for entry in batch if entry.item.id in left] + rest

    def tell(self, entry: Entry, verdict: Told) -> None:
        """The request has its verdict, and goes to its engine."""
        if not isinstance(verdict, Decision):
            self._played.refused += int(entry.item.id) >= self._counts_from
            return
        row, column = int(entry.item.id), NAMES.index(verdict.model)
        self._room.chronicle.decided(entry, verdict)
        self._decided[entry.item.id] = entry, verdict
        self._engines.start(entry.item.id, column, self._prompt(row), float(self._load.answers[row, column]))

    def refuse(self, entry: Entry, error: ApportionError) -> None:
        """The request goes nowhere."""
        self._played.refused += int(entry.item.id) >= self._counts_from

    def wait_for_model(self, entry: Entry, error: ApportionError, models: int, best: int) -> None:
        """No engine sleeps here, so that nobody waits for one to wake."""
        self.refuse(entry, error)

    def wake(self) -> None:
        """It is planned again at the next tick with something new."""

    def _end(self, name: str) -> None:
        entry, decision = self._decided.pop(name)
        row, column = int(name), NAMES.index(decision.model)
        seconds, tokens = self._now_s - entry.arrived_s, int(self._load.answers[row, column])
        cost_usd = (self._prompt(row) + tokens) * PRICES_USD[decision.model] / 1e6
        course = Course(0, 0.0, None, seconds, 200, int(self._prompt(row)), tokens)
        done = Done(name, cost_usd, course=course)
        self._room.chronicle.ended(done)
        self._room.reservations.settle(done)
        if row >= self._counts_from:
            self._played.seconds.append(seconds)
            self._played.success.append(decision.success or 0.0)
            self._played.cost_usd.append(cost_usd)
            self._played.models.append(column)

    def _prompt(self, row: int) -> float:
        return float(self._load.expected.layer("input_tokens")[row, 0])

    def _clock(self) -> float:
        return self._now_s


async def _solve(problem: BatchProblem, strategy: Strategy) -> Assignment:
    return assign(problem, strategy)
