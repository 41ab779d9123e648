"""What the queue is tested with: planners that are played, what is free, and a clock that stands still."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

from apportion.router.batch.queueing.line import Lane, Place
from apportion.router.batch.queueing.queue import BatchQueue

AGING_S = 1.0


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Recorder:
    """A planner that records its batches; `busy`, it finishes none before `finish`."""

    def __init__(self, *, slots: int = 1_000_000, busy: bool = False) -> None:
        self.slots = slots
        self.busy = busy
        self.batches: list[list[str]] = []
        self.seated: list[str] = []
        self._plans: list[asyncio.Event] = []

    async def plan(self, batch: list[str], starting: int) -> dict[str, Lane]:
        self.batches.append(list(batch))
        fits, left = batch[: self.slots], batch[self.slots :]
        self.slots -= len(fits)
        self.seated += fits
        if self.busy:
            self._plans.append(asyncio.Event())
            await self._plans[-1].wait()
        return dict.fromkeys(left)

    async def finish(self) -> None:
        """Ends what is being planned; returns when the queue has gone on."""
        plans, self._plans = self._plans, []
        for plan in plans:
            plan.set()
        await settle()


async def settle() -> None:
    """Lets everything run that needs no time."""
    for _ in range(100):
        await asyncio.sleep(0)


class Free:
    """What is free to each lane; any number where nothing is said."""

    def __init__(self, **lanes: int) -> None:
        self.lanes: dict[Lane, int] = dict(lanes)

    @property
    def free(self) -> float:
        return sum(self.lanes.values()) if self.lanes else 1_000_000

    def free_to(self, lanes: Collection[Lane]) -> float:
        return sum(self.lanes.get(lane, 1_000_000) for lane in lanes)

    def kept_for(self, lane: Lane) -> bool:
        return False


class Line(BatchQueue[str]):
    """A queue of names, of one account if nothing else is said."""

    def add(self, key: str, *, account: str = "", priority: float = 0.0, **options: Any) -> list[str]:
        """Queues a name; those that lost their place to it."""
        rank = self._clock() / AGING_S - priority
        return [name for name, _ in self.put(key, key, Place(account, None, rank), **options)]


def make_queue(recorder: Any, room: Free | None = None, **options: Any) -> Line:
    free = room or Free()
    settings: dict[str, Any] = {
        "max_batch_size": 100,
        "max_wait_s": 10.0,
        "max_queue": 100,
        "patience_s": 10.0,
        "clock": time.monotonic,
        "tick_s": 0.0,
    } | options
    return Line(getattr(recorder, "plan", recorder), lambda: free, **settings)


class Slots:
    """A planner that seats each batch in its order while its lane has slots; an entry's lane is its name's first."""

    def __init__(self, **slots: int) -> None:
        self.free = Free(**slots)
        self.batches: list[list[str]] = []
        self.seated: list[str] = []

    async def plan(self, batch: list[str], starting: int) -> dict[str, Lane]:
        self.batches.append(batch)
        left: dict[str, Lane] = {}
        for row, key in enumerate(batch):
            if row < starting and self.free.lanes[key[0]]:
                self.free.lanes[key[0]] -= 1
                self.seated.append(key)
            else:
                left[key] = key[0]
        return left

    def queue(self, **options: Any) -> Line:
        return make_queue(self, self.free, **{"max_batch_size": 256, "max_queue": 10_000} | options)
