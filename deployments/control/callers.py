"""What callers may do, as far as only the router can count it: their rates, their requests in flight, their budgets."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from apportion.deployments.config.budget import LimitConfig
from apportion.deployments.config.concurrency import ConcurrencyLimitConfig
from apportion.deployments.config.keys import Permissions
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.keys.caller import who
from apportion.deployments.keys.keyring import Keyring, rates_of
from apportion.router.batch.guards.rate import RateLimiter
from apportion.router.batch.messages import Refusal
from apportion.router.batch.money.spending import Spending
from apportion.router.budget import UNNAMED, Account
from apportion.router.errors import RateLimitError

BUSY_RETRY_S = 1.0  # when all that a caller may have in flight is: about so soon one of them may have ended


class Callers:
    """Holds callers to their rates and to their requests in flight, and hands the budgets of keys to the ledger.

    Callers without a key count as one.

    Args:
        spending: gets the keys' limits on money.
    """

    def __init__(self, config: ServiceConfig, spending: Spending) -> None:
        self._anonymous = config.anonymous
        self._keyring = Keyring.of(config)
        self._spending = spending
        self._rates = RateLimiter({})
        self._plans = RateLimiter({}, otherwise=config.ingress.route.requests_per_minute)
        self._feedback = RateLimiter({})
        self._permissions: Mapping[str, Permissions] = {}
        self._caller_of: dict[str, str] = {}  # by the id of a request in flight
        self._in_flight: Counter[str] = Counter()
        self._take()

    async def refresh(self) -> None:
        """Takes up what has changed in the keys' file."""
        if self._keyring is not None and await asyncio.to_thread(self._keyring.refresh):
            self._take()

    def error(
        self, limits: Iterable[LimitConfig], concurrency_limits: Iterable[ConcurrencyLimitConfig] = ()
    ) -> str | None:
        """What is wrong with the keys' file, or with limits that name one of its keys or tenants; None: nothing."""
        if self._keyring is None:
            return None
        return self._keyring.error or self._keyring.unknown(limits) or self._keyring.uncounted(concurrency_limits)

    def refusal(self, request_id: str, account: Account) -> Refusal | None:
        """Counts a request, which is in flight from now on; or why it is not."""
        try:
            self._check_in_flight(account)
        except RateLimitError as error:
            return Refusal(request_id, error)
        try:
            self.check_rates(account)
        except RateLimitError as error:
            return Refusal(request_id, error, holds_s=error.retry_after_s or 0.0)
        self.enter(request_id, account)
        return None

    def check_rates(self, account: Account, planned: int = 0) -> None:
        """Counts a request.

        Args:
            planned: how many requests it asks to have planned and not run.

        Raises:
            RateLimitError: its caller asks too often.
        """
        name, now_s = account.key or UNNAMED, time.monotonic()
        if planned:
            self._plans.check(name, now_s, f"{who(account)} may plan", planned)
        self._rates.check(name, now_s, f"{who(account)} may send")

    def enter_within(self, request_id: str, account: Account) -> None:
        """The request is in flight.

        Raises:
            RateLimitError: its caller has too many in flight; it is not.
        """
        self._check_in_flight(account)
        self.enter(request_id, account)

    def _check_in_flight(self, account: Account) -> None:
        name = account.key or UNNAMED
        may = self._permissions.get(name)
        if may is not None and may.max_in_flight is not None and self._in_flight[name] >= may.max_in_flight:
            raise RateLimitError(
                f"{who(account)} may have {may.max_in_flight} requests in flight; wait until one of them has ended",
                retry_after_s=BUSY_RETRY_S,
            )

    def admit_feedback(self, account: Account) -> None:
        """Raises: RateLimitError: its caller says too much about answers."""
        self._feedback.check(account.key or UNNAMED, time.monotonic(), f"{who(account)} may send feedback in")

    def enter(self, request_id: str, account: Account) -> None:
        """The request is in flight: it was admitted before, here or by another router."""
        if request_id not in self._caller_of:
            name = account.key or UNNAMED
            self._caller_of[request_id] = name
            self._in_flight[name] += 1

    def leave(self, request_id: str) -> None:
        """The request is not in flight any more, if it was."""
        name = self._caller_of.pop(request_id, None)
        if name is not None:
            self._in_flight[name] -= 1
            if not self._in_flight[name]:
                del self._in_flight[name]

    def _take(self) -> None:
        """From the next request on."""
        if self._keyring is None:
            self._permissions = {UNNAMED: self._anonymous}
            self._rates.per_minute = rates_of(self._permissions)
        else:
            keys = self._keyring.keys
            self._permissions, self._rates.per_minute = keys.by_name, keys.rates
            self._spending.set_key_limits(keys.limits)
        self._feedback.per_minute = {name: may.feedback_per_minute for name, may in self._permissions.items()}
