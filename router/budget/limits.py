"""Limits: how much USD, in which window of time, for whom.

Windows are calendar ones in UTC. Knows no database and reads no clock: the time is passed in, in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from apportion.router.budget.money import spelled
from apportion.router.errors import BudgetExceededError, BudgetExhaustedError, ConfigurationError


class Window(StrEnum):
    """A calendar window in UTC; `total` is all time."""

    minute = "minute"
    day = "day"
    month = "month"
    total = "total"

    __hash__ = str.__hash__  # an enum's own takes several times as long, and counters are looked up by it

    def bounds(self, now_s: float) -> tuple[float, float]:
        """Start and end of the window that `now_s` falls into; minus and plus infinity for `total`."""
        if self is Window.total:
            return float("-inf"), float("inf")
        start = datetime.fromtimestamp(now_s, UTC).replace(second=0, microsecond=0)
        if self is Window.minute:
            end = start + timedelta(minutes=1)
        elif self is Window.day:
            start = start.replace(hour=0, minute=0)
            end = start + timedelta(days=1)
        else:
            start = start.replace(day=1, hour=0, minute=0)
            end = (start + timedelta(days=32)).replace(day=1)
        return start.timestamp(), end.timestamp()


class Scope(StrEnum):
    """What a limit holds for."""

    service = "service"
    key = "key"
    tenant = "tenant"
    model = "model"
    job = "job"

    __hash__ = str.__hash__


UNNAMED = "unnamed"  # the key or tenant of all that have none: they share its limits, for nobody is without


_PAYERS = (Scope.service, Scope.key, Scope.tenant)
MAX_BOUND = 100_000  # accounts whose counters are remembered


class Job(NamedTuple):
    """A bulk job, which brings its own limit with it: no router has to be told of it first, or after a restart.

    Args:
        id: names it.
        limit_nano: nano-USD that its requests may cost in all; None: only the others' limits hold.
    """

    id: str
    limit_nano: int | None = None


class Account(NamedTuple):
    """Who pays: the name of an API key and a tenant, where there are any, and the job that a request is a row of."""

    key: str | None = None
    tenant: str | None = None
    job: Job | None = None

    @property
    def owner(self) -> Account:
        """The same caller, whatever it is that pays by a job."""
        return self if self.job is None else self._replace(job=None)

    def name(self, scope: Scope, model: str) -> str:
        """The name that a scope goes by for a request on `model`."""
        if scope is Scope.service:
            return ""
        if scope is Scope.model:
            return model
        if scope is Scope.job:
            return "" if self.job is None else self.job.id
        return (self.key if scope is Scope.key else self.tenant) or UNNAMED


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `nano_usd` in each `window`.

    `name` is the key, tenant or model that it holds for; None: for each of them, by itself.
    """

    scope: Scope
    window: Window
    nano_usd: int
    name: str | None = None

    def __post_init__(self) -> None:
        if self.nano_usd < 0:
            raise ConfigurationError(f"limit is {spelled(self.nano_usd)}; give zero or more")
        if self.scope is Scope.service and self.name is not None:
            raise ConfigurationError(f"name is {self.name!r}; a limit of the whole service has none, so leave it out")

    def holds_for(self, name: str) -> bool:
        """Whether a request whose scope goes by `name` is bound by this limit."""
        return self.scope is Scope.service or self.name is None or self.name == name


class CounterKey(NamedTuple):
    """A counter: a scope's name in one window. `starts_s` is minus infinity for `total`."""

    scope: Scope
    name: str
    window: Window
    starts_s: float


Bound = list[tuple[CounterKey, Limit | None]]
"""Counters, each with the tightest limit on it; None: it is only counted."""

TOTAL_KEY = CounterKey(Scope.service, "", Window.total, float("-inf"))  # counted whether limited or not


def job_key(job_id: str) -> CounterKey:
    """The counter of all that a job has cost."""
    return CounterKey(Scope.job, job_id, Window.total, float("-inf"))


class Bindings:
    """The counters of accounts and of models while no window ends, each looked up once.

    Args:
        of: the limits of a scope that hold for a name.
        starts_s: of each window.
    """

    def __init__(self, of: Callable[[Scope, str], Sequence[Limit]], starts_s: Mapping[Window, float]) -> None:
        self._of = of
        self.starts_s = starts_s
        self._accounts: dict[Account, Bound] = {}
        self._models: dict[str, Bound] = {}

    def of_account(self, account: Account) -> Bound:
        """Those that every request of the account is entered in."""
        bound = self._accounts.get(account)
        if bound is None:
            found: dict[CounterKey, Limit | None] = {TOTAL_KEY: None}
            for scope in _PAYERS:
                found = self._tightest(found, scope, account.name(scope, ""))
            if account.job is not None:
                found = self._of_job(found, account.job)
            if len(self._accounts) >= MAX_BOUND:
                self._accounts.clear()
            bound = self._accounts[account] = list(found.items())
        return bound

    def of_model(self, model: str) -> Bound:
        """Those that every request on the model is entered in."""
        bound = self._models.get(model)
        if bound is None:
            bound = self._models[model] = list(self._tightest({}, Scope.model, model).items())
        return bound

    def _of_job(self, found: dict[CounterKey, Limit | None], job: Job) -> dict[CounterKey, Limit | None]:
        """Counted whether limited or not."""
        key = job_key(job.id)
        own = None if job.limit_nano is None else Limit(Scope.job, Window.total, job.limit_nano, job.id)
        return self._tightest({**found, key: own}, Scope.job, job.id)

    def _tightest(
        self, found: dict[CounterKey, Limit | None], scope: Scope, name: str
    ) -> dict[CounterKey, Limit | None]:
        for limit in self._of(scope, name):
            key = CounterKey(scope, name, limit.window, self.starts_s[limit.window])
            other = found.get(key)
            found[key] = limit if other is None or limit.nano_usd < other.nano_usd else other
        return found


class LimitIndex:
    """Limits by what they hold for: finding those of a request does not take longer the more there are.

    Args:
        limits: kept in `all`, in their order.
    """

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        self.all = tuple(limits)
        self._by_name: dict[tuple[Scope, str | None], list[Limit]] = {}
        for limit in self.all:
            self._by_name.setdefault((limit.scope, limit.name), []).append(limit)
        self._bindings = Bindings(self.of, {})

    def of(self, scope: Scope, name: str) -> Sequence[Limit]:
        """Those that bind a request whose scope goes by `name`."""
        of_each = self._by_name.get((scope, None), ())
        of_this = () if scope is Scope.service else self._by_name.get((scope, name), ())
        return (*of_each, *of_this)

    def bindings(self, now_s: float) -> Bindings:
        """What requests are entered in at that time; the same until a window ends."""
        starts_s = {window: window.bounds(now_s)[0] for window in Window}
        if self._bindings.starts_s != starts_s:
            self._bindings = Bindings(self.of, starts_s)
        return self._bindings


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that has no room for a request.

    `retry_at_s` is when there is money again: the window's end, or soon if requests in flight hold what they may
    not use (`held`); None: never under this limit.
    """

    limit: Limit
    name: str
    left_nano: int
    needed_nano: int
    retry_at_s: float | None
    held: bool

    def error(self, now_s: float) -> BudgetExceededError:
        """402 if waiting does not help, 429 with the time to wait if it does.

        Tells balances to their owner only: what a model, the service, or all that have no name have left is no
        caller's business.
        """
        needed = f"this request may cost up to {spelled(self.needed_nano)}"
        whose = "the whole service" if self.limit.scope is Scope.service else f"{self.limit.scope} {self.name!r}"
        message = f"the budget of {whose} has no room for it: {needed}"
        if self.limit.scope in {Scope.key, Scope.tenant, Scope.job} and self.name != UNNAMED:
            span = "in total" if self.limit.window is Window.total else f"a {self.limit.window}"
            left = spelled(max(0, self.left_nano))
            message = f"the budget of {spelled(self.limit.nano_usd)} {span} for {whose} has {left} left, and {needed}"
        if self.retry_at_s is None:
            return BudgetExceededError(f"{message}; lower max_tokens, shorten the prompt, or raise the budget")
        wait_s = max(0.0, self.retry_at_s - now_s)
        if self.held:
            message += "; requests in flight hold more than they may use, so try again soon"
        else:
            again = datetime.fromtimestamp(self.retry_at_s, UTC).isoformat().replace("+00:00", "Z")
            message += f"; there is money again at {again}"
        return BudgetExhaustedError(message, retry_after_s=wait_s)
