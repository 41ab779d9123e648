import asyncio
import random
import time
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any

import pytest

from apportion.router.batch.queueing.line import Lane, Place
from apportion.router.batch.queueing.queue import BatchQueue
from apportion.router.errors import OverloadedError

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
        "max_bytes": 1 << 20,
        "patience_s": 10.0,
        "clock": time.monotonic,
        "tick_s": 0.0,
    } | options
    return Line(getattr(recorder, "plan", recorder), lambda: free, **settings)


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


async def test_a_full_queue_refuses() -> None:
    queue = make_queue(Recorder(), max_queue=2)
    queue.add("a")
    queue.add("b")
    with pytest.raises(OverloadedError, match="2 requests wait"):
        queue.add("c")
    await settle()
    queue.add("c")


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


async def test_the_higher_priority_goes_first_and_equals_in_order() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=2, clock=clock)
    for key in ("first", "a", "b", "c", "late-high"):
        queue.add(key, priority=1.0 if key == "late-high" else 0.0)
        await settle()
        clock.now_s += 0.01
    for _ in range(3):
        await recorder.finish()
    assert recorder.batches == [["first"], ["late-high", "a"], ["b", "c"]]


async def test_who_waits_long_enough_overtakes_any_priority() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=1, clock=clock)
    queue.add("running")
    await settle()
    queue.add("low")
    for number in range(6):
        queue.add(f"high{number}", priority=3.0)
        clock.now_s += 0.9
        await recorder.finish()
    for _ in range(2):
        await recorder.finish()
    assert recorder.seated == ["running", "high0", "high1", "high2", "high3", "low", "high4", "high5"]


async def test_what_was_left_over_does_not_block_what_comes_after() -> None:
    seated = []

    async def plan(batch: list[str], starting: int) -> dict[str, Lane]:
        seated.extend(key for key in batch if key.startswith("free"))
        return {key: None for key in batch if key.startswith("stuck")}

    queue = make_queue(plan, max_batch_size=2, max_wait_s=0.01)
    for number in range(5):
        queue.add(f"stuck{number}")
    await settle()
    queue.add("free")
    await settle()
    assert seated == ["free"]
    assert len(queue) == 5


async def test_a_queue_that_is_too_slow_for_a_request_says_when_to_come_again() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=1, clock=clock)
    for number in range(20):
        queue.add(str(number))
    await settle()
    for _ in range(4):
        clock.now_s += 0.5
        await recorder.finish()
    queue.add("patient")
    with pytest.raises(OverloadedError) as caught:
        queue.add("hasty", patience_s=7)
    assert caught.value.retry_after_s == pytest.approx(16 * 0.5)
    queue.add("patient too", patience_s=9)
    recorder.busy = False
    await recorder.finish()


async def test_a_burst_after_light_traffic_is_taken() -> None:
    recorder, clock = Recorder(), Clock()
    queue = make_queue(recorder, max_batch_size=256, max_queue=4096, clock=clock)
    for number in range(12):
        queue.add(f"light{number}", patience_s=30)
        await settle()
        clock.now_s += 0.25
    for number in range(1000):
        queue.add(f"burst{number}", patience_s=30)
    await settle()
    assert len(recorder.seated) == 1012


async def test_a_slow_backlog_that_has_gone_sheds_nobody() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=1, clock=clock)
    for number in range(6):
        queue.add(str(number))
    await settle()
    for _ in range(2):
        clock.now_s += 100
        await recorder.finish()
    with pytest.raises(OverloadedError):
        queue.add("hasty", patience_s=1)
    for number in range(3, 6):  # those who wait give up
        queue.discard(str(number))
    for number in range(20):
        queue.add(f"burst{number}", patience_s=1)
    recorder.busy = False
    await recorder.finish()
    assert recorder.seated == ["0", "1", "2", *(f"burst{number}" for number in range(20))]


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


async def test_a_plan_is_about_as_large_as_what_is_free_however_many_wait() -> None:
    slots = Slots(a=0)
    queue = slots.queue()
    for number in range(3_000):
        queue.add(f"a{number}")
    await settle()
    assert sum(map(len, slots.batches)) == 3_000, "each is looked at once"
    looked_at = len(slots.batches)
    for free in (1, 1, 2, 40):
        slots.free.lanes["a"] = free
        queue.wake()
        await settle()
    assert [len(batch) for batch in slots.batches[looked_at:]] == [4, 4, 4, 60]
    assert slots.seated == [f"a{number}" for number in range(44)]


async def test_where_slots_are_many_a_batch_has_all_that_wait() -> None:
    slots = Slots(a=0)
    queue = slots.queue()
    for number in range(200):
        queue.add(f"a{number}")
    await settle()
    slots.free.lanes["a"] = 500
    queue.wake()
    await settle()
    assert len(slots.batches[-1]) == 200


async def test_those_who_wait_for_a_full_model_hold_up_nobody_behind_them() -> None:
    slots = Slots(f=0, o=0)
    queue = slots.queue()
    for number in range(2_000):
        queue.add(f"f{number}")
    for number in range(10):
        queue.add(f"o{number}")
    await settle()
    planned = sum(map(len, slots.batches))
    slots.free.lanes["o"] = 3
    queue.wake()
    await settle()
    assert slots.seated == ["o0", "o1", "o2"]
    assert sum(map(len, slots.batches)) - planned < 10, "nobody who names the full model is planned in vain"


async def test_what_a_plan_passes_over_is_tried_again_in_turn_and_holds_up_nobody() -> None:
    tried: dict[str, int] = {}
    seated = []

    async def plan(batch: list[str], starting: int) -> dict[str, Lane]:
        for key in batch:
            tried[key] = tried.get(key, 0) + 1
        seated.extend(key for key in batch if not key.startswith("poor"))
        return {key: "open" for key in batch if key.startswith("poor")}

    queue = make_queue(plan, Free(), max_queue=1000)
    for number in range(400):
        queue.add(f"poor{number}")
    await settle()
    for number in range(25):
        queue.add(f"rich{number}")
        queue.wake()
        await settle()
    assert len(seated) == 25
    assert min(tried[f"poor{number}"] for number in range(400)) >= 2
    assert sum(tried.values()) < 2_000, "not all that wait are planned each time"


async def test_one_account_that_floods_the_queue_takes_no_more_than_its_turn() -> None:
    slots = Slots(a=0)
    queue = slots.queue()
    for number in range(4_000):
        queue.add(f"a-flood{number}", account="flood")
    await settle()
    innocents = [f"a-innocent{number}" for number in range(20)]
    for number, key in enumerate(innocents):
        queue.add(key, account=f"account{number % 4}")
    await settle()
    plans = 0
    while not set(innocents) <= set(slots.seated):
        slots.free.lanes["a"] = 5
        queue.wake()
        await settle()
        plans += 1
    # Five accounts share five slots a plan: each has one, and none of the four has more than five that wait.
    assert plans == 5
    assert sum("flood" in key for key in slots.seated) == 5


async def test_a_full_queue_takes_the_place_of_whoever_holds_most() -> None:
    slots = Slots(a=0)
    queue = slots.queue(max_queue=10)
    for number in range(10):
        queue.add(f"a-flood{number}", account="flood")
    await settle()
    assert queue.add("a-other0", account="other") == ["a-flood9"]
    assert queue.add("a-other1", account="other") == ["a-flood8"]
    with pytest.raises(OverloadedError, match="10 requests wait"):
        queue.add("a-flood10", account="flood")
    shed = [queue.add(f"a-third{number}", account="third") for number in range(2)]
    assert shed == [["a-flood7"], ["a-flood6"]]
    slots.free.lanes["a"] = 20
    queue.wake()
    await settle()
    assert len(queue) == 0
    assert set(slots.seated) == {
        *(f"a-flood{number}" for number in range(6)),
        "a-other0",
        "a-other1",
        "a-third0",
        "a-third1",
    }


async def test_a_flood_does_not_make_the_queue_too_slow_for_others() -> None:
    recorder, clock = Recorder(busy=True), Clock()
    queue = make_queue(recorder, max_batch_size=1, clock=clock)
    for number in range(40):
        queue.add(str(number), account="flood")
    await settle()
    for _ in range(4):
        clock.now_s += 0.5
        await recorder.finish()
    with pytest.raises(OverloadedError):
        queue.add("hasty", account="flood", patience_s=2)
    queue.add("innocent", account="other", patience_s=2)
    for _ in range(2):
        clock.now_s += 0.5
        await recorder.finish()
    assert "innocent" in recorder.batches[-1] + recorder.batches[-2]
    recorder.busy = False
    await recorder.finish()


async def test_what_waits_holds_no_more_bytes_than_it_may() -> None:
    recorder = Recorder(busy=True, slots=0)
    queue = make_queue(recorder, max_bytes=1000)
    queue.add("planned", account="one", size_bytes=400)
    await settle()
    queue.add("a", account="one", size_bytes=300)
    with pytest.raises(OverloadedError):
        queue.add("b", account="one", size_bytes=301)
    assert queue.add("c", account="two", size_bytes=290) == []
    assert queue.add("d", account="three", size_bytes=100) == ["a"], "it holds most"
    recorder.busy, recorder.slots = False, 10
    await recorder.finish()
    await recorder.finish()
    assert len(queue) == 0
    queue.add("e", account="two", size_bytes=1000)


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
