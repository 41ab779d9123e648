"""How many sequences ran beside a request, on average over its own time."""

from __future__ import annotations

import numpy as np
import pytest

from apportion.router.batch.messages import Done
from apportion.router.batch.reservations.occupancy import Occupancy
from tests.router.batch.plain_room import Clock, PlainRoom, items


def test_the_mean_is_over_the_requests_own_time() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    occupancy.begin("a", "x", 1)
    assert occupancy.mean("a") == 1
    clock.now_s += 2
    occupancy.begin("b", "x", 3)
    occupancy.begin("c", "y", 7)
    clock.now_s += 2
    assert occupancy.mean("a") == pytest.approx((2 * 1 + 2 * 4) / 4)
    assert occupancy.mean("b") == pytest.approx(4)
    occupancy.end("a")
    clock.now_s += 4
    assert occupancy.mean("b") == pytest.approx((2 * 4 + 4 * 3) / 6)
    occupancy.begin("b", "x", 3)
    occupancy.end("nobody")
    assert (occupancy.mean("c"), occupancy.mean("nobody")) == (7, 0)


def test_random_stays_are_as_summed_second_by_second() -> None:
    clock, rng = Clock(), np.random.default_rng(0)
    occupancy = Occupancy(clock)
    stays = {
        f"r{i}": (int(b), int(b + lasting), int(s)) for i, (b, lasting, s) in enumerate(rng.integers(1, 30, (40, 3)))
    }
    running = np.array([sum(s for b, e, s in stays.values() if b <= t < e) for t in range(70)])
    start_s = clock.now_s
    for second in range(70):
        clock.now_s = start_s + second
        for name, (begin, end, _) in stays.items():
            if end == second:
                assert occupancy.mean(name) == pytest.approx(running[begin:end].mean())
                occupancy.end(name)
        for name, (begin, _, sequences) in stays.items():
            if begin == second:
                occupancy.begin(name, "x", sequences)
    assert not occupancy._meters, "nothing is kept of replicas with nothing to do"


async def test_the_event_of_an_end_tells_it() -> None:
    room = PlainRoom()
    room.join(small=8, large=8)
    await room.verdicts(*items(4, model="small"))
    for number in range(4):
        room.clock.now_s += 1
        room.end(Done(f"r{number}", 1e-6))
    ends = [event.running for event in room.published[-4:]]
    assert ends == pytest.approx([4, (4 + 3) / 2, (4 + 3 + 2) / 3, (4 + 3 + 2 + 1) / 4])
