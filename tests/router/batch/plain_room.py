"""The batch room from plain objects: no configuration, no clock of its own, nothing remote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from apportion.router.assignment import Assignment, BatchProblem, Mip, Strategy, assign
from apportion.router.batch.events import Event, Events
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.messages import Decision, Done, EngineReplica, Refusal, RouteItem, Told, Verdict
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.planning.planner import BatchPlanner
from apportion.router.batch.planning.rungs import Rungs
from apportion.router.batch.policy import Policy, ServedModel
from apportion.router.batch.reservations.conversations import Conversations
from apportion.router.batch.reservations.fleet import Fleet
from apportion.router.batch.reservations.reservations import Reservations
from apportion.router.batch.scheduling.chronicle import Chronicle
from apportion.router.batch.scheduling.decider import Decider
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.batch.scheduling.preview import Preview
from apportion.router.batch.scheduling.scheduler import BatchLimits, Scheduler
from apportion.router.batch.scheduling.second_stage import SecondStageDecider
from apportion.router.drift.lengths import Lengths
from apportion.router.drift.speeds import Speeds
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice
from apportion.router.unpriced import Unpriced

MODELS = tuple(ServedModel(name, ModelPrice(price, price), 100) for name, price in (("small", 1.0), ("large", 10.0)))
POLICY = Policy(MODELS, Mip())
LIMITS = BatchLimits(
    max_batch_size=256,
    max_wait_s=0.05,
    max_queue=4096,
    aging_s=10.0,
    longest_request_s=300.0,
)


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


async def solve(problem: BatchProblem, strategy: Strategy) -> Assignment:
    return assign(problem, strategy)


@dataclass
class PlainRoom:
    """A scheduler with its parts; `told` are the verdicts by request id."""

    forecast: Callable[[Sequence[RouteItem]], Unpriced] = lambda items: forecasts(len(items))
    solver: Any = solve
    solver_timeout_s: float = 0.1
    policy: Policy = POLICY
    limits: BatchLimits = LIMITS
    spending: Spending | None = None
    preview_s: float = 5.0
    sleepers: tuple[str, ...] = ()
    clock: Clock = field(default_factory=Clock)
    told: dict[str, Told] = field(default_factory=dict)
    published: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        models = self.policy.models
        self.rungs = Rungs(self.solver, Part("solver", self.solver_timeout_s, self.clock), len(models), 0.1)
        self.planner = BatchPlanner(self.rungs)
        self.fleet = Fleet(self.policy.engines, self.clock, sleepers=self.sleepers)
        self.spending = self.spending or Spending(None, 300.0, clock=self.clock)
        self.events = Events()
        self.events.subscribe(self.published.append)
        self.chronicle = Chronicle(self.events, self.clock, self.clock, self.fleet.running_with)
        self.reservations = Reservations(
            self.fleet, self.spending, Conversations(4, 60.0, self.clock), self.clock, self.chronicle.settled
        )
        self.lengths = Lengths.of([False] * len(models))
        self.speeds = Speeds(self.policy.names, self.clock)
        self.preview = Preview(
            BatchPlanner(Rungs(self.solver, Part("solver of previews", 0.1, self.clock), len(models), 0.1)),
            self.lengths,
            self.speeds,
            self.preview_s,
        )
        decider = Decider(
            self.planner,
            self.reservations,
            self.lengths,
            self.speeds,
            self.clock,
            patience_s=self.limits.aging_s,
            settle_s=0.0,
            events=self.events,
            wall_clock=self.clock,
        )
        second = SecondStageDecider(
            Rungs(self.solver, Part("solver of second stages", 0.1, self.clock), len(models), 0.1),
            self.planner.batch_ids,
            self.reservations,
            self.lengths,
            self.clock,
        )
        self.scheduler = Scheduler(
            self.policy, decider, self.reservations, self.limits, self._tell, self.clock, self.preview, second
        )

    def _tell(self, entry: Entry, verdict: Told) -> None:
        self.told[entry.item.id] = verdict
        if isinstance(verdict, Decision):
            self.chronicle.decided(entry, verdict)
        elif isinstance(verdict, Refusal):
            self.chronicle.refused(entry, verdict.error)

    def end(self, done: Done) -> None:
        """As the router hears of an end."""
        self.chronicle.ended(done)
        self.reservations.settle(done)

    def join(self, **slots: int) -> None:
        """A replica of each model with so many slots."""
        for model, count in slots.items():
            self.fleet.announce(EngineReplica(f"{model}-0", model, f"http://{model}", count))

    def submit(self, *items: RouteItem) -> list[Entry]:
        forecast = self.forecast(items)
        entries = [Entry(item, "ingress", self.clock(), forecast, row) for row, item in enumerate(items)]
        for entry in entries:
            self.scheduler.submit(entry)
        return entries

    async def verdicts(self, *items: RouteItem) -> list[Verdict]:
        """What is told of the items as one batch."""
        self.submit(*items)
        return [await self.verdict(item.id) for item in items]

    async def previewed(self, *items: RouteItem) -> list[Verdict]:
        """What would be decided for the items as one batch."""
        return await self.scheduler.preview(items, self.forecast(items))

    async def verdict(self, request_id: str) -> Verdict:
        told = await self.heard(request_id)
        assert isinstance(told, Decision | Refusal)
        return told

    async def heard(self, request_id: str) -> Told:
        """The same, of a cascade's second stage too."""
        await until(lambda: request_id in self.told)
        return self.told[request_id]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


def estimates(n: int, success: tuple[float, ...] = (0.4, 0.9), cost: tuple[float, ...] = (1e-6, 1e-5)) -> Estimates:
    shape = (n, 2)
    return Estimates(
        success=np.tile(success, (n, 1)),
        success_std=np.zeros(shape),
        cost_usd=np.tile(cost, (n, 1)),
        cost_std_usd=np.zeros(shape),
        input_tokens=np.full(shape, 10.0),
        output_tokens=np.full(shape, 5.0),
    )


def forecasts(n: int, success: tuple[float, ...] = (0.4, 0.9), *, models: tuple[str, ...] = POLICY.names) -> Unpriced:
    """Prompts of ten tokens, and answers of five."""
    shape = (n, len(models))
    layers = (np.tile(success, (n, 1)), np.zeros(shape), *(np.full(shape, count) for count in (10.0, 5.0, 5.0, 0.0)))
    return Unpriced(models, np.stack(layers))


def guessed(items: Sequence[RouteItem]) -> Unpriced:
    """What there is without a predictor."""
    return replace(forecasts(len(items)), guessed=frozenset(range(len(items))))


def items(n: int, **fields: Any) -> list[RouteItem]:
    return [RouteItem(id=f"r{i}", **fields) for i in range(n)]
