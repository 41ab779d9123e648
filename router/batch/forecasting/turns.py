"""Requests in line for a part that works on few calls at once: accounts take turns, and each call takes what it may.

So a call is as large as the line is long, and whoever sends one request waits for about one call, however many another
account has in line.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field

from apportion.router.batch.messages import RouteItem
from apportion.router.budget import Account
from apportion.router.estimates import Estimates

Row = tuple[Estimates, int]  # a table, and the row of it
_Waiting = deque[tuple["Asked", int]]
_Accounts = OrderedDict[Account, _Waiting]


@dataclass(eq=False)
class Asked:
    """Requests that are asked about together, though perhaps in several calls.

    Args:
        items: the requests.
        chars: their sizes, in the same order.
        call: the answers to some of them, in order; None where there is no answer.
        max_items: most requests of a call.
        max_chars: most characters of a call.
        urgent: goes before all that is not; of the others one call runs at a time.
    """

    items: Sequence[RouteItem]
    chars: Sequence[int]
    call: Callable[[Sequence[RouteItem]], Awaitable[Estimates | None]]
    max_items: int
    max_chars: int
    urgent: bool
    rows: list[Row | None] = field(init=False)
    left: int = field(init=False)
    running: int = 0
    closed: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.rows, self.left = [None] * len(self.items), len(self.items)


class _Line:
    """Accounts with what they wait for: those that have not had a turn yet, then the others, each in order."""

    def __init__(self) -> None:
        self._new: _Accounts = OrderedDict()
        self._served: _Accounts = OrderedDict()

    def put(self, asked: Asked) -> None:
        for row, item in enumerate(asked.items):
            accounts = self._served if item.account in self._served else self._new
            accounts.setdefault(item.account, deque()).append((asked, row))

    def next(self) -> tuple[Asked, list[int]] | None:
        """One call's requests, by turns of their accounts; all of one batch, whose call it is."""
        asked: Asked | None = None
        rows: list[int] = []
        chars = 0
        passed: list[tuple[_Accounts, Account, _Waiting]] = []  # of another batch, or too large for this call
        while (accounts := self._new or self._served) and (asked is None or len(rows) < asked.max_items):
            account, mine = accounts.popitem(last=False)
            first, row = mine[0]
            if asked is not None and (first is not asked or chars + first.chars[row] > asked.max_chars):
                passed.append((accounts, account, mine))
                continue
            mine.popleft()
            if not first.closed:
                asked = first
                rows.append(row)
                chars += first.chars[row]
                accounts = self._served
            if mine:
                accounts[account] = mine
        for accounts, account, mine in reversed(passed):
            accounts[account] = mine
            accounts.move_to_end(account, last=False)
        return None if asked is None else (asked, sorted(rows))


class Turns:
    """The line, and the calls under way.

    Args:
        places: calls at once, >= 1.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._patient_runs = False
        self._urgent, self._patient = _Line(), _Line()
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked, patience_s: float) -> list[Row | None]:
        """The answers, in order; None for those whose call had none, or had not begun within `patience_s`."""
        (self._urgent if asked.urgent else self._patient).put(asked)
        self._begin()
        try:
            async with asyncio.timeout(patience_s if patience_s < float("inf") else None) as waiting:
                while asked.left:
                    await self._change(asked)
        except TimeoutError:
            if not waiting.expired():
                raise
        finally:
            asked.closed = True  # what has not begun is passed over when its turn comes
        while asked.running:
            await self._change(asked)
        return asked.rows

    async def _change(self, asked: Asked) -> None:
        asked.changed.clear()
        await asked.changed.wait()

    def _begin(self) -> None:
        while self._free:
            turn = self._urgent.next() or (None if self._patient_runs else self._patient.next())
            if turn is None:
                return
            asked, rows = turn
            self._free -= 1
            self._patient_runs |= not asked.urgent
            asked.running += 1
            # In a context of its own: Serve cancels what was called in the context of a client that leaves, and whoever
            # begins this call, a preview or a batch, is often not the one whose call it is.
            task = asyncio.create_task(self._run(asked, rows), context=Context())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _run(self, asked: Asked, rows: list[int]) -> None:
        try:
            found = await asked.call([asked.items[row] for row in rows])
            if found is not None:
                for place, row in enumerate(rows):
                    asked.rows[row] = (found, place)
        finally:
            asked.left -= len(rows)
            asked.running -= 1
            asked.changed.set()
            self._free += 1
            if not asked.urgent:
                self._patient_runs = False
            self._begin()
