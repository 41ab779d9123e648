"""Prompts in line for a part that works on few calls at once: accounts take turns, and each call takes what it may.

So a call is as large as the line is long, and whoever sends one request waits for about one call, however many another
account has in line.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field

from apportion.router.batch.prompt import Prompt
from apportion.router.budget import Account
from apportion.router.unpriced import Unpriced

Call = Callable[[Sequence[Prompt]], Awaitable[Unpriced | None]]


@dataclass(eq=False, slots=True)
class _Waiting:
    prompt: Prompt
    begun: bool = False
    answer: asyncio.Future[Unpriced | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def answer_with(self, found: Unpriced | None) -> None:
        if not self.answer.done():  # nobody has left
            self.answer.set_result(found)

    def give_up(self) -> None:
        if not self.begun:
            self.answer_with(None)


_Accounts = OrderedDict[Account, deque[_Waiting]]


class Turns:
    """The line, and the calls under way.

    Args:
        call: what is found of some prompts, in their order; None: nothing.
        places: calls at once, >= 1.
        max_items: most prompts of a call.
        max_chars: most characters of a call; a prompt that alone has more has a call of its own.
    """

    def __init__(self, call: Call, places: int, max_items: int, max_chars: int) -> None:
        self._call = call
        self._free = places
        self._max_items = max_items
        self._max_chars = max_chars
        self._new: _Accounts = OrderedDict()  # accounts that have not had a turn yet, and what they wait for
        self._served: _Accounts = OrderedDict()  # the others
        self._beginning: asyncio.Handle | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, prompt: Prompt, account: Account, patience_s: float) -> Unpriced | None:
        """The prompt's forecast; None if its call has none, or has not begun within `patience_s`."""
        waiting = _Waiting(prompt)
        accounts = self._served if account in self._served else self._new
        accounts.setdefault(account, deque()).append(waiting)
        self._begin_soon()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(patience_s, waiting.give_up) if patience_s < float("inf") else None
        try:
            return await waiting.answer
        finally:
            if timer is not None:
                timer.cancel()

    def _begin_soon(self) -> None:
        """What comes in the same turn of the loop goes with one call.

        In a context of its own: Serve cancels what was called in the context of a client that leaves, and a call is
        not only the one's who begins it.
        """
        if self._free and self._beginning is None:
            self._beginning = asyncio.get_running_loop().call_soon(self._begin, context=Context())

    def _begin(self) -> None:
        self._beginning = None
        while self._free and (batch := self._next()):
            self._free -= 1
            task = asyncio.create_task(self._run(batch))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _next(self) -> list[_Waiting]:
        """One call's prompts, by turns of their accounts."""
        batch: list[_Waiting] = []
        chars = 0
        passed: list[tuple[_Accounts, Account, deque[_Waiting]]] = []  # too large for this call
        while (accounts := self._new or self._served) and len(batch) < self._max_items:
            account, mine = accounts.popitem(last=False)
            first = mine[0]
            if batch and not first.answer.done() and chars + first.prompt.chars > self._max_chars:
                passed.append((accounts, account, mine))
                continue
            mine.popleft()
            if not first.answer.done():  # whoever has left is passed over
                first.begun = True
                batch.append(first)
                chars += first.prompt.chars
                accounts = self._served
            if mine:
                accounts[account] = mine
        for accounts, account, mine in reversed(passed):
            accounts[account] = mine
            accounts.move_to_end(account, last=False)
        return batch

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        found: Unpriced | None = None
        try:
            found = await self._call([waiting.prompt for waiting in batch])
        finally:
            for row, waiting in enumerate(batch):
                waiting.answer_with(None if found is None else found.rows([row]))
            self._free += 1
            self._begin_soon()
