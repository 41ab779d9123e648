"""The Router's money: worst cases in the durable ledger, planned costs in memory, and what each batch may spend.

The ledger blocks, so it works in a thread of its own. Without a `budget` section there is no ledger, only the count.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from apportion.router.arrays import IntArray
from apportion.router.batch.funds import Funds, worst_cases
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import Policy
from apportion.router.budget import Limit, Pacer, Scope, Shortage, Tally, Window, WindowState, from_nano, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.standing import Balance, Claim, CounterKey, Standing
from apportion.router.errors import LedgerError
from apportion.router.estimates import Estimates

logger = logging.getLogger("ray.serve")
T = TypeVar("T")

MAX_REMEMBERED = 10_000
GRACE_S = 60.0  # after a request's longest time; then nobody will tell its end any more


@dataclass(frozen=True)
class Pacing:
    """Spreads the service's limit of a window over the batches of that window."""

    pacer: Pacer
    window: Window


class Treasury:
    """Reserves before a request is dispatched, settles when it has ended.

    Args:
        ledger: None: no limits hold and nothing outlives the process.
        max_request_s: longest time of a request.
        limits: of the configuration; keys may bring more.
        pacing: how the service's limit of a window is spread over batches; None: not at all.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        ledger: BudgetLedger | None,
        max_request_s: float,
        *,
        limits: Iterable[Limit] = (),
        pacing: Pacing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ttl_s = max_request_s + GRACE_S
        self._clock = clock
        self.tally = Tally()
        self._ends: dict[str, int | None] = {}
        self._view: dict[CounterKey, Balance] = {}  # as the ledger last told; may be old
        self._reserved: dict[str, int] = {}
        self._overruns = 0
        self._latest: asyncio.Future[Any] | None = None
        self._ledger = ledger
        self._thread = None if ledger is None else ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._pacing = pacing
        self._own_limits: tuple[Limit, ...] = ()
        self._key_limits: tuple[Limit, ...] = ()
        self.set_limits(limits)

    def set_limits(self, limits: Iterable[Limit]) -> None:
        """The configuration's limits from now on; those of keys stay."""
        self._own_limits = tuple(limits)
        self._apply_limits()

    def set_key_limits(self, limits: Iterable[Limit]) -> None:
        """The keys' limits from now on; those of the configuration stay."""
        self._key_limits = tuple(limits)
        if self._key_limits and self._ledger is None:
            logger.error("API keys have limits, but without a `budget` section nobody keeps them; add one")
        self._apply_limits()

    async def look(self, items: Sequence[RouteItem], estimates: Estimates, policy: Policy) -> Funds | None:
        """How the limits stand for a batch that is about to be planned; None: there are none.

        What the ledger told last is good enough as long as there is money: `reserve` has the last word. Only where a
        request or a model seems too dear the ledger is asked.

        Raises:
            LedgerError: the database does not answer; without it nothing may be spent.
        """
        if self._ledger is None:
            return None
        worst_nano = worst_cases(items, estimates, policy.models)
        funds = self._funds(
            items, policy.names, worst_nano, Standing(self._ledger.limits, self._clock(), dict(self._view))
        )
        if self._view and funds.affordable.all():
            return funds
        accounts = [item.account for item in items]
        standing: Standing = await self._run(self._ledger.look, accounts, policy.names, now_s=self._clock())
        self._remember(standing)
        return self._funds(items, policy.names, worst_nano, standing)

    async def reserve(self, claims: Sequence[Claim]) -> list[Shortage | None]:
        """Sets the worst cases aside; what is short, and None for those that have what they need.

        Raises:
            LedgerError: as above.
        """
        if self._ledger is None or not claims:
            return [None] * len(claims)
        now_s = self._clock()
        shortages: list[Shortage | None]
        try:
            shortages = await self._run(self._ledger.reserve, claims, now_s=now_s, expires_s=now_s + self._ttl_s)
        except BaseException:
            # It may have been written all the same, if the connection broke during the commit.
            self._ends.update({claim.id: 0 for claim in claims})
            raise
        self._remember(self._ledger.latest)
        for claim, shortage in zip(claims, shortages, strict=True):
            if shortage is None:
                self._reserved[claim.id] = claim.nano
        return shortages

    def plan(self, request_id: str, cost_usd: float) -> None:
        """A request goes to an engine and is expected to cost this."""
        self.tally.plan(request_id, cost_usd)

    def settle(self, request_id: str, cost_usd: float | None) -> None:
        """A request that an engine worked on has ended; None: cost unknown, so its worst case is charged.

        Takes effect with the next call to the ledger; `flush` waits for it.
        """
        nano = None if cost_usd is None else to_nano(cost_usd)
        reserved = self._reserved.pop(request_id, None)
        if self._ledger is not None:
            self._ends.setdefault(request_id, nano)
        if nano is None and reserved is not None:
            cost_usd = from_nano(reserved)
        if nano is not None and reserved is not None and nano > reserved:
            self._overruns += 1
            logger.warning("request %s cost %d nano-USD, more than its worst case %d", request_id, nano, reserved)
        self.tally.end(request_id, cost_usd)

    def release(self, request_id: str) -> None:
        """A request that no engine worked on has ended."""
        self._reserved.pop(request_id, None)
        if self._ledger is not None:
            self._ends.setdefault(request_id, 0)
        self.tally.release(request_id)

    async def flush(self) -> None:
        """Returns when all that was settled and released before is in the ledger; if that fails, later."""
        if self._ledger is None:
            return
        try:
            if self._ends:
                await self._run(self._settle)
            elif self._latest is not None and not self._latest.done():
                await asyncio.wait({self._latest})
        except LedgerError as error:
            logger.warning("the ledger does not answer, %d endings wait: %s", len(self._ends), error)

    async def expire(self) -> None:
        """Charges what lost routers had reserved and nobody has settled in time."""
        if self._ledger is None:
            return
        await self.flush()
        try:
            charged = await self._run(self._expire, now_s=self._clock())
        except LedgerError as error:
            logger.warning("the ledger does not answer: %s", error)
            return
        if charged:
            logger.warning("%d reservations of lost requests are charged in full", charged)

    async def statement(self) -> dict[str, Any]:
        """Numbers of the moment: what is planned and spent here, and how every limit stands."""
        numbers: dict[str, Any] = {
            "reserved_usd": self.tally.planned_usd,
            "spent_usd": self.tally.spent_usd,
        }
        if self._ledger is None:
            return numbers
        try:
            standing: Standing = await self._run(self._statement, now_s=self._clock())
        except LedgerError as error:
            return numbers | {"budget": {"error": error.message}}
        return numbers | {"budget": _spelled_out(standing) | {"overruns": self._overruns}}

    def close(self) -> None:
        """Settles what waits and closes the database."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None and self._thread is not None:
            self._thread.shutdown()
            ledger.settle(self._ends)
            ledger.close()

    def _funds(
        self, items: Sequence[RouteItem], names: tuple[str, ...], worst_nano: IntArray, standing: Standing
    ) -> Funds:
        left_nano = standing.left_nano([item.account for item in items], names)
        pacer = None if self._pacing is None else self._pacing.pacer
        return Funds(items, names, worst_nano, left_nano, standing, pacer, self._window(standing))

    def _remember(self, standing: Standing) -> None:
        if len(self._view) > MAX_REMEMBERED:  # of windows and tenants of the past
            self._view.clear()
        self._view.update(standing.balances)

    def _apply_limits(self) -> None:
        if self._ledger is not None:
            self._ledger.limits = (*self._own_limits, *self._key_limits)

    async def _run(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Calls the ledger in its thread, with the endings that wait; they wait on if it fails."""
        ends, self._ends = self._ends, {}
        work = asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **options, ends=ends))
        work.add_done_callback(partial(self._keep_on_failure, ends))
        self._latest = work
        return await asyncio.shield(work)  # the ledger is told even if whoever waits for it is gone

    def _keep_on_failure(self, ends: dict[str, int | None], work: asyncio.Future[Any]) -> None:
        if not work.cancelled() and work.exception() is not None:
            self._ends = {**self._ends, **ends}

    def _settle(self, *, ends: Mapping[str, int | None]) -> None:
        assert self._ledger is not None
        self._ledger.settle(ends)

    def _expire(self, *, now_s: float, ends: Mapping[str, int | None]) -> int:
        assert self._ledger is not None
        self._ledger.settle(ends)
        return self._ledger.expire(now_s=now_s)

    def _statement(self, *, now_s: float, ends: Mapping[str, int | None]) -> Standing:
        assert self._ledger is not None
        self._ledger.settle(ends)
        return self._ledger.statement(now_s=now_s)

    def _window(self, standing: Standing) -> WindowState | None:
        if self._pacing is None:
            return None
        paced = [
            limit for limit in self._own_limits if limit.scope is Scope.service and limit.window == self._pacing.window
        ]
        if not paced:
            return None
        limit = min(paced, key=lambda one: one.nano_usd)
        spent_nano = sum(balance.spent_nano for _, balance in standing.of_limit(limit))
        starts_s, ends_s = Window(limit.window).bounds(standing.now_s)
        committed_usd = from_nano(spent_nano) + self.tally.planned_usd
        return WindowState(from_nano(limit.nano_usd), committed_usd, starts_s, ends_s, standing.now_s)


def _spelled_out(standing: Standing) -> dict[str, Any]:
    total = standing.total()
    return {
        "spent_usd": from_nano(total.spent_nano),
        "reserved_usd": from_nano(total.reserved_nano),
        # Names of keys and tenants are not for whoever may look at the service's health.
        "limits": [
            {
                "scope": limit.scope.value,
                "window": limit.window.value,
                "name": name or limit.name,
                "usd": from_nano(limit.nano_usd),
                "spent_usd": from_nano(balance.spent_nano),
                "reserved_usd": from_nano(balance.reserved_nano),
            }
            for limit in standing.limits
            if limit.scope in {Scope.service, Scope.model}
            for name, balance in standing.of_limit(limit) or [("", Balance())]
        ],
    }
