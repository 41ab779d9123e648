import asyncio

import pytest

from apportion.router.batch.gate import Gate


async def enter(gate: Gate, name: str, urgent: bool, order: list[str], leave: asyncio.Event) -> None:
    async with gate.place(urgent=urgent):
        order.append(name)
        await leave.wait()


async def test_the_urgent_go_first_and_others_in_the_order_of_their_arrival() -> None:
    gate, order, leave = Gate(1, most_waiting=2), [], asyncio.Event()
    work = []
    for name, urgent in (("first", False), ("p1", False), ("p2", False), ("u1", True), ("u2", True)):
        work.append(asyncio.create_task(enter(gate, name, urgent, order, leave)))
        await asyncio.sleep(0)
    assert order == ["first"]
    assert gate.crowded
    leave.set()
    await asyncio.gather(*work)
    assert order == ["first", "u1", "u2", "p1", "p2"]
    assert not gate.crowded


@pytest.mark.parametrize("at_the_same_moment", [False, True])
async def test_who_gives_up_in_line_takes_no_place_with_him(at_the_same_moment: bool) -> None:
    gate, order, leave = Gate(1, most_waiting=2), [], asyncio.Event()
    first, gives_up, last = (
        asyncio.create_task(enter(gate, name, True, order, leave)) for name in ("first", "gives up", "last")
    )
    await asyncio.sleep(0)
    leave.set()
    if at_the_same_moment:
        await first  # has handed its place over by now
    gives_up.cancel()
    await asyncio.gather(gives_up, return_exceptions=True)
    await asyncio.wait_for(last, 1)
    assert order[-1] == "last"
    async with asyncio.timeout(1), gate.place(urgent=False):
        pass
