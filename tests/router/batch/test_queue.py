import asyncio
import time
from contextvars import ContextVar
from typing import Any

import pytest

from apportion.router.batch.queue import BatchQueue
from apportion.router.errors import OverloadedError


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

    async def plan(self, batch: list[str]) -> set[str]:
        self.batches.append(list(batch))
        fits, left = batch[: self.slots], batch[self.slots :]
        self.slots -= len(fits)
        self.seated += fits
        if self.busy:
            self._plans.append(asyncio.Event())
            await self._plans[-1].wait()
        return set(left)

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


def make_queue(recorder: Recorder, **options: Any) -> BatchQueue[str]:
    settings: dict[str, Any] = {
        "max_batch_size": 100,
        "max_wait_s": 10.0,
        "max_queue": 100,
        "clock": time.monotonic,
    } | options
    return BatchQueue(recorder.plan, lambda key: key, **settings)


async def test_an_idle_queue_plans_at_once() -> None:
    recorder = Recorder()
    queue = make_queue(recorder)
    queue.put("a")
    await settle()
    assert recorder.batches == [["a"]]


async def test_what_arrives_in_one_turn_shares_a_batch() -> None:
    recorder = Recorder()
    queue = make_queue(recorder)
    for key in "abc":
        queue.put(key)
    await settle()
    assert recorder.batches == [["a", "b", "c"]]


async def test_the_next_batch_collects_while_one_is_planned() -> None:
    recorder = Recorder(busy=True)
    queue = make_queue(recorder)
    for key in "abc":
        queue.put(key)
        await settle()
    assert recorder.batches == [["a"]]
    await recorder.finish()
    assert recorder.batches == [["a"], ["b", "c"]]
    await recorder.finish()


async def test_nobody_waits_longer_than_max_wait_for_a_batch_to_start() -> None:
    recorder = Recorder(busy=True)
    queue = make_queue(recorder, max_wait_s=0.02)
    queue.put("slow")
    await settle()
    queue.put("late")
    async with asyncio.timeout(10):
        while len(recorder.batches) < 2:
            await settle()
    assert recorder.batches == [["slow"], ["late"]]
    await recorder.finish()


async def test_a_batch_has_at_most_its_size() -> None:
    recorder = Recorder()
    queue = make_queue(recorder, max_batch_size=2)
    for key in "abcde":
        queue.put(key)
    await settle()
    assert recorder.batches == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_full_queue_refuses() -> None:
    queue = make_queue(Recorder(), max_queue=2)
    queue.put("a")
    queue.put("b")
    with pytest.raises(OverloadedError, match="2 requests wait"):
        queue.put("c")
    await settle()
    queue.put("c")


async def test_what_has_no_slot_waits_for_wake_and_keeps_its_place() -> None:
    recorder = Recorder(slots=1)
    queue = make_queue(recorder)
    for key in "abc":
        queue.put(key)
    await settle()
    assert (recorder.seated, len(queue), len(recorder.batches)) == (["a"], 2, 1)
    recorder.slots = 5
    queue.wake()
    await settle()
    assert (recorder.seated, len(queue)) == (["a", "b", "c"], 0)


async def test_a_slot_freed_during_planning_is_not_missed() -> None:
    recorder = Recorder(busy=True, slots=0)
    queue = make_queue(recorder)
    queue.put("a")
    await settle()
    queue.wake()  # the running plan has looked at the slots already
    await recorder.finish()
    assert len(recorder.batches) == 2
    await recorder.finish()
    assert len(recorder.batches) == 2, "nothing was freed since"


async def test_a_discarded_entry_is_not_planned() -> None:
    recorder = Recorder(slots=0)
    queue = make_queue(recorder)
    queue.put("a")
    queue.put("b")
    await settle()
    queue.discard("a")
    recorder.slots = 2
    queue.wake()
    await settle()
    assert recorder.seated == ["b"]


async def test_a_plan_that_raises_does_not_stop_the_next() -> None:
    seen = []

    async def plan(batch: list[str]) -> set[str]:
        seen.append(batch)
        if batch == ["bad"]:
            raise ValueError("broken")
        return set()

    queue = BatchQueue(plan, lambda key: key, max_batch_size=1, max_wait_s=1, max_queue=10, clock=time.monotonic)
    queue.put("bad")
    queue.put("good")
    await settle()
    assert seen == [["bad"], ["good"]]


async def test_the_higher_priority_goes_first_and_equals_in_order() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    ranks = {"late-high": 1.0}
    queue = make_queue(recorder, max_batch_size=2, priority=lambda key: ranks.get(key, 0.0), clock=clock)
    for key in ("first", "a", "b", "c", "late-high"):
        queue.put(key)
        await settle()
        clock.now_s += 0.01
    for _ in range(3):
        await recorder.finish()
    assert recorder.batches == [["first"], ["late-high", "a"], ["b", "c"]]


async def test_who_waits_long_enough_overtakes_any_priority() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(
        recorder,
        max_batch_size=1,
        priority=lambda key: 3.0 if key.startswith("high") else 0.0,
        aging_s=1.0,
        clock=clock,
    )
    queue.put("running")
    await settle()
    queue.put("low")
    for number in range(6):
        queue.put(f"high{number}")
        clock.now_s += 0.9
        await recorder.finish()
    for _ in range(2):
        await recorder.finish()
    assert recorder.seated == ["running", "high0", "high1", "high2", "high3", "low", "high4", "high5"]


async def test_what_was_left_over_does_not_block_what_comes_after() -> None:
    seated = []

    async def plan(batch: list[str]) -> set[str]:
        seated.extend(key for key in batch if key.startswith("free"))
        return {key for key in batch if key.startswith("stuck")}

    queue: BatchQueue[str] = BatchQueue(
        plan, lambda key: key, max_batch_size=2, max_wait_s=0.01, max_queue=100, clock=time.monotonic
    )
    for number in range(5):
        queue.put(f"stuck{number}")
    await settle()
    queue.put("free")
    await settle()
    assert seated == ["free"]
    assert len(queue) == 5


async def test_a_queue_that_is_too_slow_for_a_request_says_when_to_come_again() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=1, clock=clock)
    for number in range(20):
        queue.put(str(number))
    await settle()
    for _ in range(4):
        clock.now_s += 0.5
        await recorder.finish()
    queue.put("patient")
    with pytest.raises(OverloadedError) as caught:
        queue.put("hasty", patience_s=7)
    assert caught.value.retry_after_s == pytest.approx(16 * 0.5)
    queue.put("patient too", patience_s=9)
    recorder.busy = False
    await recorder.finish()


async def test_a_burst_after_light_traffic_is_taken() -> None:
    recorder, clock = Recorder(), Clock()
    queue = make_queue(recorder, max_batch_size=256, max_queue=4096, clock=clock)
    for number in range(12):
        queue.put(f"light{number}", patience_s=30)
        await settle()
        clock.now_s += 0.25
    for number in range(1000):
        queue.put(f"burst{number}", patience_s=30)
    await settle()
    assert len(recorder.seated) == 1012


async def test_a_slow_backlog_that_has_gone_sheds_nobody() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=1, clock=clock)
    for number in range(6):
        queue.put(str(number))
    await settle()
    for _ in range(2):
        clock.now_s += 100
        await recorder.finish()
    with pytest.raises(OverloadedError):
        queue.put("hasty", patience_s=1)
    for number in range(3, 6):  # those who wait give up
        queue.discard(str(number))
    for number in range(20):
        queue.put(f"burst{number}", patience_s=1)
    recorder.busy = False
    await recorder.finish()
    assert recorder.seated == ["0", "1", "2", *(f"burst{number}" for number in range(20))]


async def test_a_batch_belongs_to_no_single_caller() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="none")
    seen = []

    async def plan(batch: list[str]) -> set[str]:
        seen.append(caller.get())
        await asyncio.sleep(0.02)
        return set()

    queue: BatchQueue[str] = BatchQueue(
        plan, lambda key: key, max_batch_size=2, max_wait_s=0.005, max_queue=100, clock=time.monotonic
    )
    for name in "abcdef":
        caller.set(name)
        queue.put(name)
        await asyncio.sleep(0.002)
    async with asyncio.timeout(10):
        while len(seen) < 3 or queue._planning:
            await asyncio.sleep(0.01)
    assert set(seen) == {"none"}
