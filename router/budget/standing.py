"""How every limit stands at one moment, and whether it has room for one more request. Pure; the ledger fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.budget.limits import (
    TOTAL_KEY,
    Account,
    Bindings,
    Bound,
    CounterKey,
    Limit,
    LimitIndex,
    Shortage,
    Window,
)

HELD_RETRY_S = 1.0  # when requests in flight hold the money, some of it is free again about this soon
UNLIMITED_NANO = np.iinfo(np.int64).max


@dataclass(slots=True)
class Balance:
    """What was spent and is set aside, in nano-USD."""

    spent_nano: int = 0
    reserved_nano: int = 0

    @property
    def committed_nano(self) -> int:
        return self.spent_nano + self.reserved_nano


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's worst case, to be set aside."""

    id: str
    account: Account
    model: str
    nano: int


@dataclass
class Standing:
    """The limits at `now_s` and the balances of the counters that they read; a missing balance is zero."""

    limits: LimitIndex
    now_s: float
    balances: dict[CounterKey, Balance] = field(default_factory=dict)

    @cached_property
    def _bindings(self) -> Bindings:
        return self.limits.bindings(self.now_s)

    def keys(self, account: Account, model: str) -> list[CounterKey]:
        """The counters that a request of `account` on `model` is entered in."""
        return [key for key, _ in self._of(account, model)]

    def take(self, claim: Claim) -> Shortage | None:
        """Sets the claim aside in these balances if every limit has room; else says which has not, changing nothing."""
        bound = self._of(claim.account, claim.model)
        shortage = self._short(bound, claim.nano)
        if shortage is None:
            for key, _ in bound:
                self.balance(key).reserved_nano += claim.nano
        return shortage

    def short(self, claim: Claim) -> Shortage | None:
        """A limit that has no room for the claim; of several the last to end: before, trying again is of no use."""
        return self._short(self._of(claim.account, claim.model), claim.nano)

    def left_nano(self, accounts: Sequence[Account], models: Sequence[str]) -> IntArray:
        """The most that one request of each account may cost on each model: (n_accounts, n_models)."""
        by_model = [self._left_nano(self._bindings.of_model(model)) for model in models]
        known = {account: self._left_nano(self._bindings.of_account(account)) for account in set(accounts)}
        by_account = [known[account] for account in accounts]
        return np.minimum.outer(np.array(by_account, dtype=np.int64), np.array(by_model, dtype=np.int64))

    def balance(self, key: CounterKey) -> Balance:
        """The balance of a counter, which may be changed."""
        balance = self.balances.get(key)
        if balance is None:
            balance = self.balances[key] = Balance()
        return balance

    def total(self) -> Balance:
        """Everything that was ever spent and is set aside, if it is known here."""
        return self.balance(TOTAL_KEY)

    def of_limit(self, limit: Limit) -> list[tuple[str, Balance]]:
        """The names and balances that a limit has to do with, as far as they are known here."""
        starts_s = self._bindings.starts_s[limit.window]
        return [
            (key.name, balance)
            for key, balance in self.balances.items()
            if (key.scope, key.window, key.starts_s) == (limit.scope, limit.window, starts_s)
            and limit.holds_for(key.name)
        ]

    def _short(self, bound: Bound, nano: int) -> Shortage | None:
        shortages = [
            self._shortage(self.balance(key), limit, key, nano)
            for key, limit in bound
            if limit is not None and self._committed_nano(key) + nano > limit.nano_usd
        ]
        if not shortages:
            return None
        return max(shortages, key=lambda s: float("inf") if s.retry_at_s is None else s.retry_at_s)

    def _left_nano(self, bound: Bound) -> int:
        left = [limit.nano_usd - self._committed_nano(key) for key, limit in bound if limit is not None]
        return max(min(left, default=int(UNLIMITED_NANO)), 0)

    def _committed_nano(self, key: CounterKey) -> int:
        balance = self.balances.get(key)
        return 0 if balance is None else balance.spent_nano + balance.reserved_nano

    def _of(self, account: Account, model: str) -> Bound:
        """A request's counters, each with the tightest limit on it."""
        return self._bindings.of_account(account) + self._bindings.of_model(model)

    def _shortage(self, balance: Balance, limit: Limit, key: CounterKey, nano: int) -> Shortage:
        window_ends_s = key.window.bounds(self.now_s)[1]
        held = balance.spent_nano + nano <= limit.nano_usd
        if held:
            retry_at_s: float | None = min(self.now_s + HELD_RETRY_S, window_ends_s)
        elif nano > limit.nano_usd or key.window is Window.total:
            retry_at_s = None
        else:
            retry_at_s = window_ends_s
        return Shortage(limit, key.name, limit.nano_usd - balance.committed_nano, nano, retry_at_s, held)
