"""Who is asked about next, when many wait for a part that works on few calls at once."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from apportion.router.batch.forecasting.turns import Turns
from apportion.router.batch.prompt import Prompt
from apportion.router.budget import Account
from apportion.router.unpriced import Unpriced
from tests.router.batch.plain_room import forecasts, until


@dataclass
class Part:
    """Answers each call when it is let, the nth with n tenths; `calls` are the prompts of each."""

    calls: list[list[str]] = field(default_factory=list)
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    fails: bool = False

    async def __call__(self, prompts: Sequence[Prompt]) -> Unpriced | None:
        self.calls.append([str(prompt.content)[:2] for prompt in prompts])
        number = len(self.calls)
        await self.free.acquire()
        return None if self.fails else forecasts(len(prompts), success=(number / 10, 0.9))

    def let(self, calls: int) -> None:
        for _ in range(calls):
            self.free.release()

    async def asked(
        self, turns: Turns, *names: str, chars: int = 2, patience_s: float = 5.0
    ) -> list[asyncio.Task[Unpriced | None]]:
        """The account of a prompt is its first letter."""
        tasks = [
            asyncio.create_task(turns.ask(Prompt(name.ljust(chars)), Account(key=name[0]), patience_s))
            for name in names
        ]
        await asyncio.sleep(0.001)
        return tasks


async def test_accounts_take_turns_and_a_call_is_as_large_as_the_line() -> None:
    part = Part()
    turns = Turns(part, 1, 4, 100)
    tasks = await part.asked(turns, *(f"a{n}" for n in range(9)), "b0")
    tasks += await part.asked(turns, "c0", "c1")
    part.let(9)
    found = await asyncio.gather(*tasks)
    assert part.calls == [["a0", "b0", "a1", "a2"], ["c0", "a3", "c1", "a4"], ["a5", "a6", "a7", "a8"]]
    tenths = [round(10 * float(one.layer("success")[0, 0])) for one in found if one is not None]
    assert tenths == [1, 1, 1, 2, 2, 3, 3, 3, 3, 1, 2, 2], "each has its own row"


async def test_so_many_calls_run_at_once() -> None:
    part = Part()
    await part.asked(Turns(part, 2, 1, 100), "a0", "b0", "c0")
    assert part.calls == [["a0"], ["b0"]]
    part.let(1)
    await until(lambda: part.calls[2:] == [["c0"]])


async def test_who_has_waited_long_enough_goes_without_and_what_has_begun_is_waited_for() -> None:
    part = Part()
    turns = Turns(part, 1, 1, 100)
    first, second = await part.asked(turns, "a0", "b0", patience_s=0.02)
    assert await second is None
    assert not first.done()
    part.let(1)
    assert await first is not None
    await asyncio.sleep(0)
    assert part.calls == [["a0"]], "what was given up is not asked about"
    (third,) = await part.asked(turns, "c0")
    part.let(1)
    assert await third


async def test_who_leaves_takes_no_place_along_and_a_part_without_an_answer_gives_none() -> None:
    part = Part()
    turns = Turns(part, 1, 1, 100)
    running, waiting, last = await part.asked(turns, "a0", "b0", "c0")
    running.cancel()
    waiting.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    part.fails = True
    part.let(2)
    assert await last is None
    assert part.calls == [["a0"], ["c0"]]
    await until(lambda: turns._free == 1)


async def test_a_call_holds_no_more_than_it_may_and_what_has_more_alone_goes_alone() -> None:
    part = Part()
    part.let(9)
    turns = Turns(part, 1, 4, 10)
    await asyncio.gather(*await part.asked(turns, "a0", "a1", "b0", chars=5))
    await asyncio.gather(*await part.asked(turns, "c0", "d0", chars=11))
    assert part.calls == [["a0", "b0"], ["a1"], ["c0"], ["d0"]]


async def test_a_call_belongs_to_no_single_caller() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    seen: list[str] = []

    async def call(prompts: Sequence[Prompt]) -> Unpriced | None:
        seen.append(caller.get())
        await asyncio.sleep(0)
        return None

    turns = Turns(call, 1, 1, 10)
    asks = []
    for name in ("a0", "b0"):  # the first begins its call itself, and then the second's
        caller.set(name)
        asks.append(asyncio.create_task(turns.ask(Prompt(name), Account(), 5.0)))
    await asyncio.gather(*asks)
    assert seen == ["nobody", "nobody"]
