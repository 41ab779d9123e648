import asyncio
import gc
import random
import warnings
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from apportion.router.batch.queueing.line import Lane
from apportion.router.errors import OverloadedError
from tests.router.batch.queueing.played import Recorder, Slots, make_queue, settle


async def test_an_idle_queue_plans_at_once() -> None:
    recorder = Recorder()
    queue = make_queue(recorder)
    queue.add("a")
    await settle()
    assert recorder.batches == [["a"]]


async def test_what_arrives_in_one_turn_shares_a_batch() -> None:
    recorder = Recorder()
    queue = make_queue(recorder)
    for key in "abc":
        queue.add(key)
    await settle()
    assert recorder.batches == [["a", "b", "c"]]


async def test_the_next_batch_collects_while_one_is_planned() -> None:
    recorder = Recorder(busy=True)
    queue = make_queue(recorder)
    for key in "abc":
        queue.add(key)
        await settle()
    assert recorder.batches == [["a"]]
    await recorder.finish()
    assert recorder.batches == [["a"], ["b", "c"]]
    await recorder.finish()


async def test_nobody_waits_longer_than_max_wait_for_a_batch_to_start() -> None:
    recorder = Recorder(busy=True)
    queue = make_queue(recorder, max_wait_s=0.02)
    queue.add("slow")
    await settle()
    queue.add("late")
    async with asyncio.timeout(10):
        while len(recorder.batches) < 2:
            await settle()
    assert recorder.batches == [["slow"], ["late"]]
    await recorder.finish()


async def test_a_batch_has_at_most_its_size() -> None:
    recorder = Recorder()
    queue = make_queue(recorder, max_batch_size=2)
    for key in "abcde":
        queue.add(key)
    await settle()
    assert recorder.batches == [["a", "b"], ["c", "d"], ["e"]]


async def test_what_has_no_slot_waits_for_wake_and_keeps_its_place() -> None:
    recorder = Recorder(slots=1)
    queue = make_queue(recorder)
    for key in "abc":
        queue.add(key)
    await settle()
    assert (recorder.seated, len(queue), len(recorder.batches)) == (["a"], 2, 1)
    recorder.slots = 5
    queue.wake()
    await settle()
    assert (recorder.seated, len(queue)) == (["a", "b", "c"], 0)


async def test_a_slot_freed_during_planning_is_not_missed() -> None:
    recorder = Recorder(busy=True, slots=0)
    queue = make_queue(recorder)
    queue.add("a")
    await settle()
    queue.wake()  # the running plan has looked at the slots already
    await recorder.finish()
    assert len(recorder.batches) == 2
    await recorder.finish()
    assert len(recorder.batches) == 2, "nothing was freed since"


async def test_a_discarded_entry_is_not_planned() -> None:
    recorder = Recorder(slots=0)
    queue = make_queue(recorder)
    queue.add("a")
    queue.add("b")
    await settle()
    queue.discard("a")
    recorder.slots = 2
    queue.wake()
    await settle()
    assert recorder.seated == ["b"]


async def test_a_plan_that_raises_does_not_stop_the_next() -> None:
    seen = []

    async def plan(batch: list[str], starting: int) -> dict[str, Lane]:
        seen.append(batch)
        if batch == ["bad"]:
            raise ValueError("broken")
        return {}

    queue = make_queue(plan, max_batch_size=1)
    queue.add("bad")
    queue.add("good")
    await settle()
    assert seen == [["bad"], ["good"]]


async def test_a_batch_belongs_to_no_single_caller() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="none")
    seen = []

    async def plan(batch: list[str], starting: int) -> dict[str, Lane]:
        seen.append(caller.get())
        await asyncio.sleep(0.02)
        return {}

    queue = make_queue(plan, max_batch_size=2, max_wait_s=0.005)
    for name in "abcdef":
        caller.set(name)
        queue.add(name)
        await asyncio.sleep(0.002)
    async with asyncio.timeout(10):
        while len(seen) < 3 or queue._planning:
            await asyncio.sleep(0.01)
    assert set(seen) == {"none"}


async def test_what_is_freed_within_a_tick_shares_a_plan() -> None:
    slots = Slots(a=0)
    queue = slots.queue(tick_s=0.02)
    for number in range(500):
        queue.add(f"a{number}")
    await asyncio.sleep(0.05)
    planned = len(slots.batches)
    for _ in range(10):
        slots.free.lanes["a"] += 1
        queue.wake()
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert len(slots.seated) == 10
    assert len(slots.batches) - planned <= 2


async def test_while_nothing_waits_there_is_no_tick() -> None:
    slots = Slots(a=100)
    queue = slots.queue(tick_s=10.0)
    for number in range(5):
        queue.add(f"a{number}")
        await settle()
    assert slots.seated == [f"a{number}" for number in range(5)]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_each_entry_is_seated_once_or_discarded_and_nothing_is_kept_of_it(seed: int) -> None:
    rng = random.Random(seed)
    slots = Slots(a=0, b=0, c=0)
    queue = slots.queue(max_queue=300, max_batch_size=16)
    waiting: set[str] = set()
    gone: set[str] = set()
    for number in range(2_000):
        key = f"{rng.choice('abc')}{number}"
        try:
            shed = queue.add(key, account=f"{rng.randrange(4)}", priority=rng.random())
            waiting.add(key)
            gone |= set(shed)
        except OverloadedError:
            pass
        if rng.random() < 0.2:
            victim = rng.choice(sorted(waiting))
            queue.discard(victim)
            gone.add(victim)
        if rng.random() < 0.3:
            slots.free.lanes[rng.choice("abc")] += rng.randrange(4)
            queue.wake()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    for lane in "abc":
        slots.free.lanes[lane] = 10_000
    queue.wake()
    await settle()
    assert len(queue) == 0
    assert len(set(slots.seated)) == len(slots.seated)
    assert set(slots.seated) | gone >= waiting
    assert not queue._line.lanes()
    assert len(queue._held) == queue._held.accounts == 0


@pytest.fixture
def nothing_older() -> Iterator[None]:
    """Only what is made from now on is collected."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_older")
@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("busy", [False, True])
def test_an_event_loop_may_end_at_any_turn_of_a_batch(turns: int, busy: bool) -> None:
    async def briefly() -> None:
        recorder = Recorder(busy=busy)
        queue = make_queue(recorder, max_batch_size=1, max_wait_s=0.0)
        for number in range(100):
            queue.add(str(number))
        for _ in range(turns):
            await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(briefly())
        gc.collect()
    assert not told
