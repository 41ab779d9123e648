"""How every limit stands at one moment, and whether it has room for one more request. Pure; the ledger fills it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.budget.limits import Account, Limit, LimitIndex, Scope, Shortage, Window

HELD_RETRY_S = 1.0  # when requests in flight hold the money, some of it is free again about this soon
UNLIMITED_NANO = np.iinfo(np.int64).max


class CounterKey(NamedTuple):
    """A counter: a scope's name in one window. `starts_s` is minus infinity for `total`."""

    scope: Scope
    name: str
    window: Window
    starts_s: float


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


TOTAL_KEY = CounterKey(Scope.service, "", Window.total, float("-inf"))  # counted whether limited or not


@dataclass
class Standing:
    """The limits at `now_s` and the balances of the counters that they read; a missing balance is zero."""

    limits: LimitIndex
    now_s: float
    balances: dict[CounterKey, Balance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._starts_s = {window: window.bounds(self.now_s)[0] for window in Window}
        self._bound: dict[tuple[Account, str], list[tuple[CounterKey, Limit | None]]] = {}

    def keys(self, account: Account, model: str) -> list[CounterKey]:
        """The counters that a request of `account` on `model` is entered in."""
        return [key for key, _ in self._of(account, model)]

    def take(self, claim: Claim) -> Shortage | None:
        """Sets the claim aside in these balances if every limit has room; else says which has not, changing nothing."""
        shortage = self.short(claim)
        if shortage is None:
            for key, _ in self._of(claim.account, claim.model):
                self.balance(key).reserved_nano += claim.nano
        return shortage

    def short(self, claim: Claim) -> Shortage | None:
        """A limit that has no room for the claim; of several the last to end: before, trying again is of no use."""
        shortages = [
            self._shortage(balance, limit, key, claim.nano)
            for key, limit in self._of(claim.account, claim.model)
            if limit is not None and (balance := self.balance(key)).committed_nano + claim.nano > limit.nano_usd
        ]
        if not shortages:
            return None
        return max(shortages, key=lambda s: float("inf") if s.retry_at_s is None else s.retry_at_s)

    def left_nano(self, accounts: Sequence[Account], models: Sequence[str]) -> IntArray:
        """The most that one request of each account may cost on each model: (n_accounts, n_models)."""
        payers = [scope for scope in Scope if scope is not Scope.model]
        by_model = [self._left(Account(), model, [Scope.model]) for model in models]
        known = {account: self._left(account, "", payers) for account in set(accounts)}
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
        starts_s = self._starts_s[limit.window]
        return [
            (key.name, balance)
            for key, balance in self.balances.items()
            if (key.scope, key.window, key.starts_s) == (limit.scope, limit.window, starts_s)
            and limit.holds_for(key.name)
        ]

    def _left(self, account: Account, model: str, scopes: Iterable[Scope]) -> int:
        left = int(UNLIMITED_NANO)
        for key, limit in self._limits(account, model, scopes):
            committed = self.balances[key].committed_nano if key in self.balances else 0
            left = min(left, limit.nano_usd - committed)
        return max(left, 0)

    def _limits(self, account: Account, model: str, scopes: Iterable[Scope]) -> Iterator[tuple[CounterKey, Limit]]:
        """The limits of these scopes that bind a request, with their counters."""
        for scope in scopes:
            name = account.name(scope, model)
            for limit in self.limits.of(scope, name):
                yield CounterKey(scope, name, limit.window, self._starts_s[limit.window]), limit

    def _of(self, account: Account, model: str) -> list[tuple[CounterKey, Limit | None]]:
        """A request's counters, each with the tightest limit on it."""
        known = self._bound.get((account, model))
        if known is None:
            found: dict[CounterKey, Limit | None] = {TOTAL_KEY: None}
            for key, limit in self._limits(account, model, Scope):
                other = found.get(key)
                found[key] = limit if other is None or limit.nano_usd < other.nano_usd else other
            known = self._bound[account, model] = list(found.items())
        return known

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
