"""When requests are sent: so many at a time (closed loop), or at random instants whatever happens (open loop)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Call = Callable[[int], Awaitable[T]]


async def closed_loop(call: Call[T], count: int, concurrency: int) -> tuple[list[T], float]:
    """Calls 0 to count - 1, the next as soon as one of `concurrency` ends.

    Returns:
        What each call returned, in order, and the seconds that all took.
    """
    results: dict[int, T] = {}
    numbers = iter(range(count))
    started_s = time.perf_counter()
    await asyncio.gather(*(_work(call, numbers, results) for _ in range(min(concurrency, count))))
    return [results[number] for number in range(count)], time.perf_counter() - started_s


async def _work(call: Call[T], numbers: Iterator[int], results: dict[int, T]) -> None:
    for number in numbers:
        results[number] = await call(number)


def poisson_arrivals_s(count: int, rate_per_s: float, seed: int) -> list[float]:
    """Instants of a Poisson process in seconds after the start, the first at once: (count,)."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, count)
    arrivals_s: list[float] = (np.cumsum(gaps) - gaps[0]).tolist()
    return arrivals_s


async def open_loop(call: Call[T], arrivals_s: list[float]) -> tuple[list[T], float]:
    """Starts each call at its instant, however many are still running.

    Returns:
        What each call returned, in order, and the seconds from the first start to the last end.
    """
    loop = asyncio.get_running_loop()
    started_s = loop.time()

    async def arrive(number: int, at_s: float) -> T:
        await asyncio.sleep(started_s + at_s - loop.time())
        return await call(number)

    results = await asyncio.gather(*(arrive(number, at_s) for number, at_s in enumerate(arrivals_s)))
    return list(results), loop.time() - started_s
