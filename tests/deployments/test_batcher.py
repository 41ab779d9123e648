import asyncio
from contextvars import ContextVar
from dataclasses import dataclass

import pytest

from deployments.batcher import Batcher
from router.errors import OverloadedError


@dataclass
class Recorder:
    """A planner that records its batches and takes as long as it is told."""

    duration_s: float = 0.0
    slots: int = 1_000_000

    def __post_init__(self) -> None:
        self.batches: list[list[str]] = []
        self.seated: list[str] = []

    async def plan(self, batch: list[str]) -> set[str]:
        self.batches.append(list(batch))
        if self.duration_s:
            await asyncio.sleep(self.duration_s)
        fits, left = batch[: self.slots], batch[self.slots :]
        self.slots -= len(fits)
        self.seated += fits
        return set(left)


def make_batcher(recorder: Recorder, **options: float) -> Batcher[str]:
    settings = {"max_batch_size": 100, "max_wait_s": 10.0, "max_queue": 100} | options
    return Batcher(recorder.plan, lambda key: key, **settings)


async def test_an_idle_batcher_plans_at_once() -> None:
    recorder = Recorder()
    batcher = make_batcher(recorder)
    batcher.put("a")
    await asyncio.sleep(0.01)
    assert recorder.batches == [["a"]]


async def test_what_arrives_in_one_turn_shares_a_batch() -> None:
    recorder = Recorder()
    batcher = make_batcher(recorder)
    for key in "abc":
        batcher.put(key)
    await asyncio.sleep(0.01)
    assert recorder.batches == [["a", "b", "c"]]


async def test_the_next_batch_collects_while_one_is_planned() -> None:
    recorder = Recorder(duration_s=0.05)
    batcher = make_batcher(recorder)
    batcher.put("a")
    await asyncio.sleep(0.01)
    batcher.put("b")
    await asyncio.sleep(0.01)
    batcher.put("c")
    await asyncio.sleep(0.15)
    assert recorder.batches == [["a"], ["b", "c"]]


async def test_nobody_waits_longer_than_max_wait_for_a_batch_to_start() -> None:
    recorder = Recorder(duration_s=0.5)
    batcher = make_batcher(recorder, max_wait_s=0.02)
    batcher.put("slow")
    await asyncio.sleep(0.01)
    batcher.put("late")
    await asyncio.sleep(0.1)
    assert recorder.batches == [["slow"], ["late"]]
    await batcher.close()


async def test_a_batch_has_at_most_its_size() -> None:
    recorder = Recorder()
    batcher = make_batcher(recorder, max_batch_size=2)
    for key in "abcde":
        batcher.put(key)
    await asyncio.sleep(0.02)
    assert recorder.batches == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_full_queue_refuses() -> None:
    batcher = make_batcher(Recorder(duration_s=0.05), max_queue=2)
    batcher.put("a")
    batcher.put("b")
    with pytest.raises(OverloadedError, match="2 requests wait"):
        batcher.put("c")
    await asyncio.sleep(0.1)


async def test_what_has_no_slot_waits_for_wake_and_keeps_its_place() -> None:
    recorder = Recorder(slots=1)
    batcher = make_batcher(recorder)
    for key in "abc":
        batcher.put(key)
    await asyncio.sleep(0.01)
    assert (recorder.seated, len(batcher), len(recorder.batches)) == (["a"], 2, 1)
    recorder.slots = 5
    batcher.wake()
    await asyncio.sleep(0.01)
    assert (recorder.seated, len(batcher)) == (["a", "b", "c"], 0)


async def test_a_slot_freed_during_planning_is_not_missed() -> None:
    recorder = Recorder(duration_s=0.03, slots=0)
    batcher = make_batcher(recorder)
    batcher.put("a")
    await asyncio.sleep(0.01)
    batcher.wake()  # the running plan has looked at the slots already
    await asyncio.sleep(0.1)
    assert len(recorder.batches) == 2


async def test_a_discarded_entry_is_not_planned() -> None:
    recorder = Recorder(slots=0)
    batcher = make_batcher(recorder)
    batcher.put("a")
    batcher.put("b")
    await asyncio.sleep(0.01)
    batcher.discard("a")
    recorder.slots = 2
    batcher.wake()
    await asyncio.sleep(0.01)
    assert recorder.seated == ["b"]


async def test_a_plan_that_raises_does_not_stop_the_next() -> None:
    seen = []

    async def plan(batch: list[str]) -> set[str]:
        seen.append(batch)
        if batch == ["bad"]:
            raise ValueError("broken")
        return set()

    batcher = Batcher(plan, lambda key: key, max_batch_size=1, max_wait_s=1, max_queue=10)
    batcher.put("bad")
    batcher.put("good")
    await asyncio.sleep(0.02)
    assert seen == [["bad"], ["good"]]


async def test_the_higher_priority_goes_first_and_equals_in_order() -> None:
    recorder = Recorder(duration_s=0.02)
    ranks = {"late-high": 1.0}
    batcher: Batcher[str] = Batcher(
        recorder.plan, lambda key: key, max_batch_size=2, max_wait_s=10.0, max_queue=100,
        priority=lambda key: ranks.get(key, 0.0),
    )  # fmt: skip
    for key in ("first", "a", "b", "c", "late-high"):
        batcher.put(key)
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.15)
    assert recorder.batches == [["first"], ["late-high", "a"], ["b", "c"]]


async def test_who_waits_long_enough_overtakes_any_priority() -> None:
    recorder = Recorder(duration_s=0.02)
    batcher: Batcher[str] = Batcher(
        recorder.plan, lambda key: key, max_batch_size=1, max_wait_s=10.0, max_queue=100,
        priority=lambda key: 3.0 if key.startswith("high") else 0.0, aging_s=0.02,
    )  # fmt: skip
    batcher.put("running")
    await asyncio.sleep(0.005)
    batcher.put("low")
    for number in range(12):
        batcher.put(f"high{number}")
        await asyncio.sleep(0.018)
    await asyncio.sleep(0.3)
    assert len(recorder.seated) == 14
    assert recorder.seated.index("low") < 13


async def test_what_was_left_over_does_not_block_what_comes_after() -> None:
    seated = []

    async def plan(batch: list[str]) -> set[str]:
        seated.extend(key for key in batch if key.startswith("free"))
        return {key for key in batch if key.startswith("stuck")}

    batcher: Batcher[str] = Batcher(plan, lambda key: key, max_batch_size=2, max_wait_s=0.01, max_queue=100)
    for number in range(5):
        batcher.put(f"stuck{number}")
    await asyncio.sleep(0.05)
    batcher.put("free")
    await asyncio.sleep(0.05)
    assert seated == ["free"]
    assert len(batcher) == 5


async def test_a_queue_that_is_too_slow_for_a_request_says_when_to_come_again() -> None:
    recorder = Recorder(duration_s=0.05)
    batcher = make_batcher(recorder, max_batch_size=1)
    for number in range(20):
        batcher.put(str(number))
    await asyncio.sleep(0.2)
    batcher.put("patient")
    with pytest.raises(OverloadedError) as caught:
        batcher.put("hasty", patience_s=0.01)
    assert caught.value.retry_after_s >= 1.0
    await batcher.close()


async def test_a_batch_belongs_to_no_single_caller() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="none")
    seen = []

    async def plan(batch: list[str]) -> set[str]:
        seen.append(caller.get())
        await asyncio.sleep(0.02)
        return set()

    batcher: Batcher[str] = Batcher(plan, lambda key: key, max_batch_size=2, max_wait_s=0.005, max_queue=100)
    for name in "abcdef":
        caller.set(name)
        batcher.put(name)
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    assert len(seen) >= 3
    assert set(seen) == {"none"}
