import pytest

from apportion.router.errors import OverloadedError
from tests.router.batch.queueing.played import Clock, Recorder, Slots, make_queue, settle


async def test_a_full_queue_refuses() -> None:
    queue = make_queue(Recorder(), max_queue=2)
    queue.add("a")
    queue.add("b")
    with pytest.raises(OverloadedError, match="2 requests wait"):
        queue.add("c")
    await settle()
    queue.add("c")


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
