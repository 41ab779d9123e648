import asyncio
import time

import numpy as np
import pytest

from benchmarks.load.arrivals import closed_loop, open_loop, poisson_arrivals_s


class Meter:
    """Counts calls that run at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.running = 0
        self.most = 0
        self.started: dict[int, float] = {}

    async def call(self, number: int) -> int:
        self.started[number] = time.perf_counter()
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return number * number


@pytest.mark.parametrize(("count", "concurrency"), [(20, 4), (3, 8), (1, 1)])
async def test_a_closed_loop_keeps_so_many_running_and_answers_in_order(count: int, concurrency: int) -> None:
    meter = Meter(0.005)
    results, seconds = await closed_loop(meter.call, count, concurrency)
    assert results == [number * number for number in range(count)]
    assert meter.most == min(count, concurrency)
    assert seconds >= 0.005 * count / concurrency


async def test_an_open_loop_starts_on_time_however_many_run() -> None:
    meter = Meter(0.2)
    arrivals = [0.0, 0.02, 0.04, 0.06]
    began_s = time.perf_counter()
    results, seconds = await open_loop(meter.call, arrivals)
    assert results == [0, 1, 4, 9]
    assert meter.most >= 2
    assert seconds >= 0.26
    for number, at_s in enumerate(arrivals):
        assert meter.started[number] - began_s >= at_s - 0.002


def test_poisson_arrivals_have_their_rate_and_are_random_but_repeat() -> None:
    arrivals = np.array(poisson_arrivals_s(4000, 50, seed=1))
    gaps = np.diff(arrivals)
    assert arrivals[0] == 0
    assert np.isclose(gaps.mean(), 1 / 50, rtol=0.05)
    assert np.isclose(gaps.std(), 1 / 50, rtol=0.1)  # an exponential's deviation is its mean
    assert arrivals.tolist() == poisson_arrivals_s(4000, 50, seed=1)
    assert arrivals.tolist() != poisson_arrivals_s(4000, 50, seed=2)
