"""The budget ledger for an event loop: it blocks, so it works in a thread of its own, and endings wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from apportion.router.budget import Account, Limit, LimitIndex, Scope, Shortage
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.limits import CounterKey
from apportion.router.budget.standing import Balance, Claim, Standing
from apportion.router.errors import LedgerError

T = TypeVar("T")

MAX_REMEMBERED = 100_000


class AsyncLedger:
    """Calls the ledger one call at a time, each with the endings that wait; they wait on if it fails.

    All calls raise LedgerError when the database does not answer.
    """

    def __init__(self, ledger: BudgetLedger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        self._ends: dict[str, int | None] = {}
        self._view: dict[CounterKey, Balance] = {}  # as the ledger last told; may be old
        self._latest: asyncio.Future[Any] | None = None
        self._failures = 0
        self._closed = False

    def set_limits(self, limits: Iterable[Limit]) -> None:
        """The limits from the next call on."""
        self._ledger.index = LimitIndex(limits)

    @property
    def endings(self) -> int:
        """Endings that the ledger has not been told yet."""
        return len(self._ends)

    def end(self, request_id: str, nano: int | None) -> None:
        """A request has ended, at this many nano-USD or at its worst case; told with the next call."""
        self._ends.setdefault(request_id, nano)

    def remembered(self, now_s: float) -> Standing | None:
        """How the limits stood when the ledger was last asked; None if it never was."""
        return Standing(self._ledger.index, now_s, self._view) if self._view and not self._closed else None

    async def look(self, accounts: Sequence[Account], models: Sequence[str], *, now_s: float) -> Standing:
        """How the limits stand for these accounts and models."""
        standing = await self._run(self._ledger.look, accounts, models, now_s=now_s)
        self._remember(standing)
        return standing

    async def reserve(self, claims: Sequence[Claim], *, now_s: float, expires_s: float) -> Sequence[Shortage | None]:
        """Sets the claims aside; what is short, and None for those that have what they need."""
        try:
            shortages = await self._run(self._ledger.reserve, claims, now_s=now_s, expires_s=expires_s)
        except BaseException:
            # It may have been written all the same, if the connection broke during the commit.
            self._ends.update({claim.id: 0 for claim in claims})
            raise
        self._remember(self._ledger.latest)
        return shortages

    async def flush(self) -> None:
        """Returns when all endings of before are in the ledger."""
        failures = self._failures
        if self._ends:
            await self._run(self._settle)
        elif self._latest is not None and not self._latest.done():
            await asyncio.wait({self._latest})
        if self._failures != failures:  # of a call that was under way: its endings wait again
            raise LedgerError("the budget ledger's database has failed meanwhile; try again in some seconds")

    async def expire(self, *, now_s: float, prune: bool) -> int:
        """Charges reservations whose time is up in full, and may forget what is old; how many were charged."""
        return await self._run(self._expire, now_s=now_s, prune=prune)

    async def statement(
        self, *, now_s: float, scopes: Iterable[Scope], names: Collection[str] | None = None
    ) -> Standing:
        """How the limits of these scopes (and names) stand, but for endings that wait; holds up no other call."""
        self._check_open()
        read = partial(self._ledger.statement, now_s=now_s, scopes=scopes, names=names)
        return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    def close(self) -> None:
        """Tells the ledger the endings that wait, and closes it: all further calls fail."""
        if self._closed:
            return
        self._closed = True
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._thread.shutdown()
        if not self.superseded:
            self._ledger.settle(self._ends)
        self._ledger.close()

    @property
    def superseded(self) -> bool:
        """Whether a newer router has taken over: that one is told the endings, and this one may write no more."""
        return self._ledger.superseded

    def _check_open(self) -> None:
        if self.superseded:
            self._ends.clear()
            raise LedgerError("a newer router has taken over the budget ledger, and this one stops; try again")
        if self._closed:
            raise LedgerError("the budget ledger is closed, since the router stops; try again in some seconds")

    def _remember(self, standing: Standing) -> None:
        if len(self._view) > MAX_REMEMBERED:  # of windows and tenants of the past
            self._view.clear()
        self._view.update(standing.balances)

    async def _run(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        self._check_open()
        ends, self._ends = self._ends, {}
        work = asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **options, ends=ends))
        work.add_done_callback(partial(self._keep_on_failure, ends))
        self._latest = work
        return await asyncio.shield(work)  # the ledger is told even if whoever waits for it is gone

    def _keep_on_failure(self, ends: dict[str, int | None], work: asyncio.Future[Any]) -> None:
        if not work.cancelled() and work.exception() is not None:
            self._ends = {**self._ends, **ends}
            self._failures += 1

    def _settle(self, *, ends: Mapping[str, int | None]) -> None:
        self._ledger.settle(ends)

    def _expire(self, *, now_s: float, prune: bool, ends: Mapping[str, int | None]) -> int:
        self._ledger.settle(ends)
        return self._ledger.expire(now_s=now_s, prune=prune)
