"""The Router's money: worst cases in the durable ledger, planned costs in memory, and what each batch may spend.

Without a `budget` section there is no ledger, only the count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from apportion.router.arrays import IntArray
from apportion.router.batch.guards.recent import Recent
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.money.async_ledger import AsyncLedger
from apportion.router.batch.money.batch_budget import BatchBudget, worst_cases
from apportion.router.batch.policy import Policy
from apportion.router.budget import Limit, Pacer, Scope, Shortage, Tally, Window, WindowState, from_nano, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.limits import job_key
from apportion.router.budget.standing import Balance, Claim, Standing
from apportion.router.errors import LedgerError
from apportion.router.estimates import Estimates
from apportion.router.variants import model_of

logger = logging.getLogger(__name__)

# Names of keys and tenants are not for whoever may look at the service's health.
TOLD_SCOPES = (Scope.service, Scope.model)
STATEMENT_PATIENCE_S = 0.5  # with a database that is slow; then its last statement is told with its age
PRUNE_AFTER_S = 3_600.0
GRACE_S = 60.0  # after a request's longest time; then nobody will tell its end any more


@dataclass(frozen=True)
class Pacing:
    """Spreads the service's limit of a window over the batches of that window."""

    pacer: Pacer
    window: Window

    def state(self, limits: Iterable[Limit], standing: Standing, planned_usd: float) -> WindowState | None:
        """How the window stands with `planned_usd` in flight; None if nothing limits the service in it any more."""
        paced = [limit for limit in limits if limit.scope is Scope.service and limit.window == self.window]
        if not paced:
            return None
        limit = min(paced, key=lambda one: one.nano_usd)
        spent_nano = sum(balance.spent_nano for _, balance in standing.of_limit(limit))
        starts_s, ends_s = Window(limit.window).bounds(standing.now_s)
        committed_usd = from_nano(spent_nano) + planned_usd
        return WindowState(from_nano(limit.nano_usd), committed_usd, starts_s, ends_s, standing.now_s)


class Spending:
    """Reserves before a request is dispatched, settles when it has ended.

    Args:
        ledger: None: no limits hold and nothing outlives the process.
        max_request_s: longest time of a request.
        limits: of the configuration; keys may bring more.
        pacing: how the service's limit of a window is spread over batches; None: not at all.
        clock: seconds since 1970.
        steady_s: for how long that clock has gone steadily, in seconds; until it has done so for as long as a request
            may last, nothing expires, and until it has done so for an hour, nothing is forgotten.
        only_jobs: the ledger is for rows of jobs; other requests do not wait for it.
    """

    def __init__(
        self,
        ledger: BudgetLedger | None,
        max_request_s: float,
        *,
        limits: Iterable[Limit] = (),
        pacing: Pacing | None = None,
        clock: Callable[[], float],
        steady_s: Callable[[], float] = lambda: float("inf"),
        only_jobs: bool = False,
    ) -> None:
        self._only_jobs = only_jobs
        self._jobs_seen = not only_jobs
        self._ttl_s = max_request_s + GRACE_S
        self._clock = clock
        self._steady_s = steady_s
        self.tally = Tally()
        self._reserved: dict[str, int] = {}
        self._overruns = 0
        self._ledger = None if ledger is None else AsyncLedger(ledger)
        self._standing: Recent[Standing] = Recent("the ledger's statement", self._stated, clock)
        self._pacing = pacing
        self._own_limits: tuple[Limit, ...] = ()
        self._key_limits: tuple[Limit, ...] = ()
        self.set_limits(limits)

    @property
    def superseded(self) -> bool:
        """Whether a newer router keeps the ledger, so that this one can decide nothing more."""
        return self._ledger is not None and self._ledger.superseded

    def set_limits(self, limits: Iterable[Limit]) -> None:
        """The configuration's limits from now on; those of keys stay."""
        self._own_limits = tuple(limits)
        self._apply_limits()

    def set_key_limits(self, limits: Iterable[Limit]) -> None:
        """The keys' limits from now on; those of the configuration stay."""
        self._key_limits = tuple(limits)
        self._apply_limits()

    def now_s(self) -> float:
        """Seconds since 1970, by the clock that windows are reckoned with."""
        return self._clock()

    async def look(self, items: Sequence[RouteItem], estimates: Estimates, policy: Policy) -> BatchBudget | None:
        """How the limits stand for a batch that is about to be planned; None: there are none.

        What the ledger told last is good enough as long as there is money: `reserve` has the last word. Only where a
        request or a model seems too dear the ledger is asked.

        Raises:
            LedgerError: the database does not answer; without it nothing may be spent.
        """
        if self._ledger is None or (self._only_jobs and not items[0].bulk):
            return None
        self._jobs_seen = True
        worst_nano = worst_cases(items, estimates, policy.models)
        models = tuple(map(model_of, policy.names))  # that limits hold for
        remembered = self._ledger.remembered(self._clock())
        if remembered is not None:
            budget = self._budget(items, models, worst_nano, remembered)
            if budget.affordable.all():
                return budget
        accounts = [item.account for item in items]
        standing = await self._ledger.look(accounts, models, now_s=self._clock())
        return self._budget(items, models, worst_nano, standing)

    async def reserve(self, claims: Sequence[Claim]) -> Sequence[Shortage | None]:
        """Sets the worst cases aside; what is short, and None for those that have what they need.

        Raises:
            LedgerError: as above.
        """
        if self._ledger is None or not claims:
            return [None] * len(claims)
        now_s = self._clock()
        shortages = await self._ledger.reserve(claims, now_s=now_s, expires_s=now_s + self._ttl_s)
        self._reserved |= {c.id: c.nano for c, shortage in zip(claims, shortages, strict=True) if shortage is None}
        return shortages

    def plan(self, request_id: str, cost_usd: float, *, bulk: bool = False) -> None:
        """A request goes to an engine and is expected to cost this."""
        self._jobs_seen |= bulk
        self.tally.plan(request_id, cost_usd)

    def settle(self, request_id: str, cost_usd: float | None) -> int:
        """A request that an engine worked on has ended; None: cost unknown, so its worst case is charged.

        Takes effect with the next call to the ledger; `flush` waits for it.

        Returns:
            What it counts for, in nano-USD; where nothing was set aside and nothing told, what was planned.
        """
        nano = None if cost_usd is None else to_nano(cost_usd)
        reserved = self._reserved.pop(request_id, None)
        if self._ledger is not None and self._jobs_seen:
            self._ledger.end(request_id, nano)
        if nano is None and reserved is not None:
            cost_usd = from_nano(reserved)
        if nano is not None and reserved is not None and nano > reserved:
            self._overruns += 1
            logger.warning("request %s cost %d nano-USD, more than its worst case %d", request_id, nano, reserved)
        return to_nano(self.tally.end(request_id, cost_usd))

    def release(self, request_id: str) -> None:
        """A request that no engine worked on has ended."""
        self._reserved.pop(request_id, None)
        if self._ledger is not None and self._jobs_seen:
            self._ledger.end(request_id, 0)
        self.tally.release(request_id)

    async def flush(self) -> bool:
        """Whether all that was settled and released before is in the ledger; else it will be, later."""
        if self._ledger is None:
            return True
        try:
            await self._ledger.flush()
        except LedgerError as error:
            logger.warning("the ledger does not answer, %d endings wait: %s", self._ledger.endings, error)
            return False
        return True

    async def expire(self) -> None:
        """Charges what lost routers had reserved and nobody has settled in time."""
        if self._ledger is None:
            return
        await self.flush()
        steady_s = self._steady_s()
        if steady_s < self._ttl_s:  # by a clock that has jumped, what is in flight would be charged
            return
        try:
            charged = await self._ledger.expire(now_s=self._clock(), prune=steady_s >= PRUNE_AFTER_S)
        except LedgerError as error:
            logger.warning("the ledger does not answer: %s", error)
            return
        if charged:
            logger.warning("%d reservations of lost requests are charged in full", charged)

    async def of_jobs(self, ids: Sequence[str]) -> dict[str, Balance]:
        """What jobs have spent and set aside.

        Raises:
            LedgerError: the database does not answer.
        """
        if self._ledger is None or not ids:
            return {}
        standing = await self._ledger.statement(now_s=self._clock(), scopes=[Scope.job], names=ids)
        return {one: standing.balance(job_key(one)) for one in ids}

    async def statement(self, max_age_s: float = 0.0) -> dict[str, Any]:
        """Numbers of the moment: what is planned and spent here, and how every limit stands.

        Args:
            max_age_s: the database's part may be told again for so long; where it is slow it may be older, and
                `age_s` says how old it is.
        """
        numbers: dict[str, Any] = {
            "reserved_usd": self.tally.planned_usd,
            "spent_usd": self.tally.spent_usd,
        }
        if self._ledger is None or self._only_jobs:
            return numbers
        standing = await self._standing.within(max_age_s, STATEMENT_PATIENCE_S)
        budget: dict[str, Any] = {"overruns": self._overruns}
        if standing is not None:
            budget |= _spelled_out(standing) | {"age_s": round(max(self._standing.age_s, 0.0), 1)}
        if (error := self._standing.error) is not None:
            budget["error"] = error.message if isinstance(error, LedgerError) else "the ledger does not answer"
        return numbers | {"budget": budget}

    def close(self) -> None:
        """Settles what waits and closes the database; whoever asks for money from now on is refused."""
        if self._ledger is not None:
            self._ledger.close()

    async def _stated(self) -> Standing:
        if self._ledger is None:
            raise LedgerError("the ledger is closed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATEMENT_PATIENCE_S / 2):
                await self.flush()
        return await self._ledger.statement(now_s=self._clock(), scopes=TOLD_SCOPES)

    def _budget(
        self, items: Sequence[RouteItem], names: tuple[str, ...], worst_nano: IntArray, standing: Standing
    ) -> BatchBudget:
        left_nano = standing.left_nano([item.account for item in items], names)
        pacing = self._pacing
        if pacing is None or items[0].bulk:  # a job's plan spreads its own money
            return BatchBudget(items, names, worst_nano, left_nano, standing, None, None)
        window = pacing.state(self._own_limits, standing, self.tally.planned_usd)
        return BatchBudget(items, names, worst_nano, left_nano, standing, pacing.pacer, window)

    def _apply_limits(self) -> None:
        if self._ledger is not None:
            self._ledger.set_limits((*self._own_limits, *self._key_limits))


def _spelled_out(standing: Standing) -> dict[str, Any]:
    total = standing.total()
    return {
        "spent_usd": from_nano(total.spent_nano),
        "reserved_usd": from_nano(total.reserved_nano),
        "limits": [
            {
                "scope": limit.scope.value,
                "window": limit.window.value,
                "name": name or limit.name,
                "usd": from_nano(limit.nano_usd),
                "spent_usd": from_nano(balance.spent_nano),
                "reserved_usd": from_nano(balance.reserved_nano),
            }
            for limit in standing.limits.all
            if limit.scope in TOLD_SCOPES
            for name, balance in standing.of_limit(limit) or [("", Balance())]
        ],
    }
