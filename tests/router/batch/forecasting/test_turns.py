"""Who is asked about next, when many wait for a part that works on one call at a time."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from apportion.router.batch.forecasting.turns import Asked, Row, Turns
from apportion.router.batch.messages import RouteItem
from apportion.router.budget import Account
from apportion.router.estimates import Estimates
from tests.router.batch.plain_room import estimates, until


@dataclass
class Part:
    """Answers a call at a time, each when it is let; `calls` are the requests of each."""

    calls: list[list[str]] = field(default_factory=list)
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    fails: bool = False

    async def __call__(self, items: Sequence[RouteItem]) -> Estimates | None:
        self.calls.append([item.id for item in items])
        await self.free.acquire()
        return None if self.fails else estimates(len(items), success=(len(self.calls) / 10, 0.9))

    def asked(self, *ids: str, urgent: bool = True, most: int = 4, chars: int = 1) -> Asked:
        """The account of a request is the first letter of its id."""
        items = [RouteItem(name, "x", account=Account(key=name[0])) for name in ids]
        return Asked(items, [chars] * len(items), self, most, 10, urgent)

    async def run(self, turns: Turns, *asked: Asked, patience_s: float = 5.0) -> list[asyncio.Task[list[Row | None]]]:
        tasks = []
        for one in asked:
            tasks.append(asyncio.create_task(turns.ask(one, patience_s)))
            await asyncio.sleep(0)
        return tasks


async def test_accounts_take_turns_within_a_batch_and_between_batches() -> None:
    part, turns = Part(), Turns(1)
    flood = part.asked(*(f"a{n}" for n in range(9)), "b0")
    tasks = await part.run(turns, flood, part.asked("c0", "c1"))
    for _ in range(9):
        part.free.release()
    whole, other = await asyncio.gather(*tasks)
    assert part.calls == [["a0", "a1", "a2", "b0"], ["c0", "c1"], ["a3", "a4", "a5", "a6"], ["a7", "a8"]]
    assert [row for _, row in filter(None, whole)] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 3]
    assert all(other)


async def test_what_is_not_urgent_comes_last_and_one_call_at_a_time() -> None:
    part, turns = Part(), Turns(2)
    tasks = await part.run(turns, part.asked("p0", "p1", urgent=False, most=1), part.asked("q0", urgent=False))
    assert part.calls == [["p0"]], "the second place is for the urgent"
    tasks += await part.run(turns, part.asked("u0"), part.asked("u1"))
    assert part.calls == [["p0"], ["u0"]]
    for _ in range(5):
        part.free.release()
    await asyncio.gather(*tasks)
    assert part.calls[2] == ["u1"]
    assert sorted(part.calls[3:]) == [["p1"], ["q0"]]


async def test_who_has_waited_long_enough_goes_without_and_what_has_begun_is_waited_for() -> None:
    part, turns = Part(), Turns(1)
    (first,) = await part.run(turns, part.asked("a0", "a1", most=1), patience_s=0.02)
    (second,) = await part.run(turns, part.asked("b0"), patience_s=0.02)
    assert await second == [None]
    assert not first.done()
    part.free.release()
    begun, late = await first
    assert begun is not None
    assert late is None
    await asyncio.sleep(0)
    assert part.calls == [["a0"]], "what was given up is not asked about"
    part.free.release()
    assert await turns.ask(part.asked("c0"), 5.0)


async def test_who_leaves_takes_no_place_along_and_a_part_without_an_answer_gives_none() -> None:
    part, turns = Part(), Turns(1)
    running, waiting, last = await part.run(turns, part.asked("a0"), part.asked("b0"), part.asked("c0"))
    running.cancel()
    waiting.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    part.fails = True
    part.free.release()
    part.free.release()
    assert await last == [None]
    assert part.calls == [["a0"], ["c0"]]
    await until(lambda: turns._free == 1)


async def test_a_call_holds_no_more_than_it_may() -> None:
    part, turns = Part(), Turns(1)
    for _ in range(3):
        part.free.release()
    await turns.ask(part.asked("a0", "a1", "b0", chars=5), 5.0)
    assert part.calls == [["a0", "b0"], ["a1"]]


async def test_a_call_belongs_to_no_single_caller() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    seen: list[str] = []

    async def call(items: Sequence[RouteItem]) -> Estimates | None:
        seen.append(caller.get())
        await asyncio.sleep(0)
        return None

    turns = Turns(1)
    asks = []
    for name in ("a0", "b0"):  # the first begins its call itself, and then the second's
        caller.set(name)
        asks.append(asyncio.create_task(turns.ask(Asked([RouteItem(name, "x")], [1], call, 4, 10, True), 5.0)))
    await asyncio.gather(*asks)
    assert seen == ["nobody", "nobody"]
