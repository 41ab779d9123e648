from apportion.router.batch.queueing.line import Lane
from tests.router.batch.queueing.played import Clock, Free, Recorder, Slots, make_queue, settle


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
