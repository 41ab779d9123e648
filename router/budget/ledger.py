"""The budget ledger: what was spent, what requests in flight may still cost, and what limits leave.

Owned by a database, so that it is the same for every process that shares it and survives their ends. A request's
worst case is *reserved* before an engine sees it and *settled* with what was counted at the end; so
`spent + reserved` is at no time below what engines have generated, whoever is killed when. A reservation whose owner
is never heard of again is charged in full once it expires, and corrected should its end be told after all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import TypeVar

from sqlalchemy import Connection, bindparam, delete, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from apportion.router.budget.limits import Account, CounterKey, Limit, LimitIndex, Scope, Shortage, Window
from apportion.router.budget.rows import Rows, chunks
from apportion.router.budget.schema import READS, connect, counters, owners, reservations, transact, unusable
from apportion.router.budget.standing import Balance, Claim, Standing
from apportion.router.errors import LedgerError

T = TypeVar("T")

DAY_S = 86_400.0
KEEP_COUNTERS_S = 400 * DAY_S  # windows of days and months, for whoever asks what was spent
KEEP_MINUTES_S = DAY_S
KEEP_CHARGED_S = DAY_S  # so long, a late end still corrects what an expired reservation was charged
PRUNE_PERIOD_S = 3_600.0
PRUNE_ROWS = 10_000  # forgotten in one transaction
_DATABASE = "the budget ledger's database"
_MAX_KNOWN_IDS = 100_000

_KEY = (counters.c.scope, counters.c.name, counters.c.span, counters.c.starts_s)
_CHARGE = (
    update(reservations)
    .where(reservations.c.charged.is_(False), reservations.c.expires_s <= bindparam("now_s"))
    # From now on, so that a clock that jumped does not also take away what would correct the charge.
    .values(charged=True, expires_s=bindparam("now_s"))
    .returning(reservations.c.amount_nano, reservations.c.counters)
)


class BudgetLedger:
    """Reserves and settles money for batches of requests, each call in one transaction.

    Blocking; several processes may use one database, several threads one ledger only in turns.

    Args:
        url: of the database; see `apportion.router.budget.schema.connect`.
        limits: may change later through `index`; what was spent before a limit was set does not count against it.
            `latest` is how those stood that the last call of `reserve` had to do with.
        power_safe: wait for the disk at each commit (SQLite).
        owner: name of a service that has one router at a time: this ledger is the newest's from now on, and those of
            the same name before it may write no more. None: whoever comes may write.

    Raises:
        ConfigurationError: the database cannot be opened.
    """

    def __init__(
        self, url: str, limits: Iterable[Limit] = (), *, power_safe: bool = False, owner: str | None = None
    ) -> None:
        self.index = LimitIndex(limits)
        self.latest = Standing(self.index, 0.0)
        self._engine = connect(url, power_safe=power_safe)
        self._rows = Rows(self._engine)
        self._insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        self._ids: dict[CounterKey, int] = {}
        self._pruned_s = float("-inf")
        self.superseded = False
        self._owner = owner
        self._epoch = 0 if owner is None else self._transact(self._take_over)

    def reserve(
        self,
        claims: Sequence[Claim],
        *,
        now_s: float,
        expires_s: float,
        ends: Mapping[str, int | None] | None = None,
    ) -> list[Shortage | None]:
        """Sets each claim aside if every limit has room for it, in order; None for those that were.

        A claim under an id that is reserved already replaces it: its owner has asked again.

        Args:
            expires_s: when the reservations are charged if nothing is heard of them.
            ends: settled first, in the same transaction; see `settle`.

        Raises:
            LedgerError: the database cannot be used; nothing was reserved or settled.
        """
        if not claims and not ends:
            return []
        replaced: dict[str, int | None] = {claim.id: 0 for claim in claims}
        return self._reserve(claims, {**replaced, **(ends or {})}, now_s, expires_s)

    def settle(self, ends: Mapping[str, int | None]) -> None:
        """Ends reservations by id: charges nano-USD that were counted, or all that was reserved where that is None.

        Zero releases. An id that is unknown, or ended already, is left alone.

        Raises:
            LedgerError: the database cannot be used; nothing was settled.
        """
        if ends:
            self._reserve((), ends, 0.0, 0.0)

    def look(
        self, accounts: Iterable[Account], models: Sequence[str], *, now_s: float, ends: Mapping[str, int | None]
    ) -> Standing:
        """How the limits of these accounts on these models stand, after `ends` were settled.

        Raises:
            LedgerError: the database cannot be used; nothing was settled.
        """
        standing = Standing(self.index, now_s)
        keys = {key for account in set(accounts) for model in models for key in standing.keys(account, model)}
        self._forget_if_many()

        def read(connection: Connection) -> None:
            self._check_owner(connection)
            self._rows.add(connection, self._end(connection, ends).rows)
            self._find(connection, keys)
            self._fill(connection, standing, self._known(keys))

        self._transact(read)
        return standing

    def statement(
        self, *, now_s: float, scopes: Iterable[Scope] = Scope, names: Collection[str] | None = None
    ) -> Standing:
        """The counters of these scopes, and of these names of theirs, in the windows that `now_s` falls into.

        On a connection of its own, which waits for no writer and holds up none: any thread may ask at any time.

        Raises:
            LedgerError: the database cannot be used.
        """
        standing = Standing(self.index, now_s)
        rows = select(*_KEY, counters.c.spent_nano, counters.c.reserved_nano).where(
            or_(counters.c.ends_s.is_(None), counters.c.ends_s > now_s), counters.c.scope.in_(scopes)
        )
        if names is not None:
            rows = rows.where(counters.c.name.in_(names))
        try:
            with self._engine.connect().execution_options(**{READS: True}) as connection:
                found = connection.execute(rows).all()
        except SQLAlchemyError as error:
            raise unusable(_DATABASE, error) from error
        for scope, name, window, starts_s, spent, reserved in found:
            key = CounterKey(Scope(scope), name, Window(window), _starts(Window(window), starts_s))
            standing.balances[key] = Balance(spent, reserved)
        return standing

    def expire(self, *, now_s: float, prune: bool = True) -> int:
        """Charges reservations that are overdue in full; now and then forgets windows and reservations of long ago.

        Args:
            prune: whether to forget: not while `now_s` may be wrong.

        Returns:
            How many reservations were charged.
        """

        def charge(connection: Connection) -> int:
            changes = _Changes()
            overdue = connection.execute(_CHARGE, {"now_s": now_s}).all()
            for amount, entered in overdue:
                changes.add(entered, amount, -amount)
            self._rows.add(connection, changes.rows)
            return len(overdue)

        charged = self._transact(charge)
        if prune and not self._pruned_s <= now_s < self._pruned_s + PRUNE_PERIOD_S:
            forgotten = self._transact(lambda connection: _prune(connection, now_s))
            if forgotten < PRUNE_ROWS:  # else there is more, and the next call goes on
                self._pruned_s = now_s
        return charged

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def _reserve(
        self, claims: Sequence[Claim], ends: Mapping[str, int | None], now_s: float, expires_s: float
    ) -> list[Shortage | None]:
        standing = Standing(self.index, now_s)
        groups = {(claim.account, claim.model) for claim in claims}
        keys_of = {group: standing.keys(*group) for group in groups}
        keys = {key for keys in keys_of.values() for key in keys}
        self._forget_if_many()

        def write(connection: Connection) -> list[Shortage | None]:
            standing.balances.clear()  # of an attempt before this one
            self._check_owner(connection)
            changes = self._end(connection, ends)
            self._find(connection, keys)
            shortages = self._hopeless(connection, claims, standing, keys, changes)
            hopeful = {(c.account, c.model) for c, short in zip(claims, shortages, strict=True) if short is None}
            self._make(connection, sorted({key for group in hopeful for key in keys_of[group] if key not in self._ids}))
            self._fill(connection, standing, self._known(keys), changes)
            shortages = [short or standing.take(claim) for claim, short in zip(claims, shortages, strict=True)]
            entered = {group: _entered([self._ids[key] for key in keys_of[group]]) for group in hopeful}
            taken = [
                (claim.id, claim.nano, entered[claim.account, claim.model])
                for claim, shortage in zip(claims, shortages, strict=True)
                if shortage is None
            ]
            for _, nano, into in taken:
                changes.add(into, 0, nano)
            self._rows.add(connection, changes.rows)
            self._rows.reserve(connection, taken, expires_s)
            return shortages

        shortages = self._transact(write)
        self.latest = standing
        return shortages

    def _hopeless(
        self,
        connection: Connection,
        claims: Sequence[Claim],
        standing: Standing,
        keys: Set[CounterKey],
        changes: _Changes,
    ) -> list[Shortage | None]:
        """What is short even with all counters at zero that are not there yet: what is refused leaves none behind."""
        known = self._known(keys)
        if len(known) == len(keys):
            return [None] * len(claims)
        self._fill(connection, standing, known, changes)
        shortages = [standing.take(claim) for claim in claims]
        standing.balances.clear()
        return shortages

    def _take_over(self, connection: Connection) -> int:
        first = self._insert(owners).values(name=self._owner, epoch=1)
        newest = first.on_conflict_do_update(index_elements=["name"], set_={"epoch": owners.c.epoch + 1})
        return int(connection.execute(newest.returning(owners.c.epoch)).scalar_one())

    def _check_owner(self, connection: Connection) -> None:
        if self._owner is None:
            return
        newest = select(owners.c.epoch).where(owners.c.name == self._owner).with_for_update(read=True)
        if connection.execute(newest).scalar() != self._epoch:
            self.superseded = True
            raise LedgerError("a newer router has taken over the budget ledger, and this one stops; try again")

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Does the work in one transaction; again from its start where it collided with another and was given up."""
        # What was learnt of ids may be of rows that are not there after all.
        try:
            return transact(self._engine, work, self._ids.clear)
        except SQLAlchemyError as error:
            raise unusable(_DATABASE, error) from error

    def _end(self, connection: Connection, ends: Mapping[str, int | None]) -> _Changes:
        changes = _Changes()
        for amount, charged, entered, request_id in self._rows.end(connection, list(ends)):
            told = ends[request_id]
            cost = amount if told is None else told
            changes.add(entered, cost - amount if charged else cost, 0 if charged else -amount)
        return changes

    def _known(self, keys: Iterable[CounterKey]) -> list[CounterKey]:
        """Those whose ids are known. Asks for one after the other: sets and views of a dict would walk all ids."""
        return [key for key in keys if key in self._ids]

    def _forget_if_many(self) -> None:
        """Only between transactions: one needs all that it has found."""
        if len(self._ids) > _MAX_KNOWN_IDS:
            self._ids.clear()

    def _find(self, connection: Connection, keys: Iterable[CounterKey]) -> None:
        """Learns the ids of counters that are in the database."""
        unknown = [key for key in keys if key not in self._ids]
        for some in chunks(unknown):
            values = [(key.scope.value, key.name, key.window.value, _stored(key.starts_s)) for key in some]
            rows = select(counters.c.id, *_KEY).where(tuple_(*_KEY).in_(values))
            for row_id, scope, name, window, starts_s in connection.execute(rows):
                key = CounterKey(Scope(scope), name, Window(window), _starts(Window(window), starts_s))
                self._ids[key] = row_id

    def _make(self, connection: Connection, keys: Sequence[CounterKey]) -> None:
        if not keys:
            return
        rows = []
        for key in keys:
            ends_s = None if key.window is Window.total else key.window.bounds(key.starts_s)[1]
            rows.append(
                {
                    "scope": key.scope.value,
                    "name": key.name,
                    "span": key.window.value,
                    "starts_s": _stored(key.starts_s),
                    "ends_s": ends_s,
                }
            )
        connection.execute(self._insert(counters).on_conflict_do_nothing(), rows)
        self._find(connection, keys)

    def _fill(
        self,
        connection: Connection,
        standing: Standing,
        keys: Iterable[CounterKey],
        changes: _Changes | None = None,
    ) -> None:
        """Balances of the keys, with `changes` that are not written yet; their rows stay locked."""
        names = {self._ids[key]: key for key in keys}
        entered = changes.rows if changes else {}
        read = names.keys() | entered.keys() if self._rows.locked_by_row else names.keys()
        for row_id, spent, reserved in self._rows.balances(connection, sorted(read)):
            if row_id in names:
                more_spent, more_reserved = entered.get(row_id, (0, 0))
                standing.balances[names[row_id]] = Balance(spent + more_spent, reserved + more_reserved)


class _Changes:
    """What a transaction adds to counters.

    Attributes:
        rows: nano-USD spent and reserved, by row id.
    """

    def __init__(self) -> None:
        self.rows: dict[int, tuple[int, int]] = {}

    def add(self, entered: str, spent: int, reserved: int) -> None:
        """Adds to all counters of a reservation, whose row ids are `entered`."""
        for row_id in _row_ids(entered):
            old_spent, old_reserved = self.rows.get(row_id, (0, 0))
            self.rows[row_id] = (old_spent + spent, old_reserved + reserved)


def _entered(row_ids: Iterable[int]) -> str:
    """As JSON."""
    return f"[{', '.join(map(str, row_ids))}]"


@lru_cache(1 << 16)
def _row_ids(entered: str) -> tuple[int, ...]:
    return tuple(json.loads(entered))


def _prune(connection: Connection, now_s: float) -> int:
    """Forgets at most PRUNE_ROWS of each table that nobody needs any more; how many of the fuller one."""
    charged = reservations.c.charged.is_(True) & (reservations.c.expires_s < now_s - KEEP_CHARGED_S)
    minutes = (counters.c.span == Window.minute.value) & (counters.c.ends_s < now_s - KEEP_MINUTES_S)
    longer = (counters.c.span != Window.minute.value) & (counters.c.ends_s < now_s - KEEP_COUNTERS_S)
    old = or_(minutes, longer) & (counters.c.reserved_nano == 0)
    return max(
        connection.execute(
            delete(table).where(table.c.id.in_(select(table.c.id).where(which).order_by(table.c.id).limit(PRUNE_ROWS)))
        ).rowcount
        for table, which in ((reservations, charged), (counters, old))
    )


def _stored(starts_s: float) -> float:
    return 0.0 if starts_s == float("-inf") else starts_s


def _starts(window: Window, stored: float) -> float:
    return float("-inf") if window is Window.total else stored
