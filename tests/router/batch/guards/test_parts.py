import asyncio

from apportion.router.batch.guards.parts import Part
from tests.router.batch.plain_room import Clock


async def fails() -> int:
    raise ConnectionError("gone")


async def test_one_call_decides_whether_a_part_works_again_and_the_others_do_without() -> None:
    clock, calls, answer = Clock(), 0, asyncio.Event()
    part = Part("predictor", 5.0, clock)

    async def slow() -> int:
        nonlocal calls
        calls += 1
        await answer.wait()
        return 7

    for _ in range(3):
        assert await part.ask(fails) is None
    assert await part.ask(slow) is None, "left alone"
    clock.now_s += 2
    trial = asyncio.create_task(part.ask(slow))
    await asyncio.sleep(0)
    assert await part.ask(slow) is None
    answer.set()
    assert await trial == 7
    assert await part.ask(slow) == 7
    assert calls == 2


async def test_a_trial_that_is_cancelled_leaves_room_for_the_next() -> None:
    clock = Clock()
    part = Part("solver", 5.0, clock)
    for _ in range(3):
        await part.ask(fails)
    clock.now_s += 2
    trial = asyncio.create_task(part.ask(asyncio.Event().wait))
    await asyncio.sleep(0)
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)

    async def works() -> int:
        return 1

    assert await part.ask(works) == 1
