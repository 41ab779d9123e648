"""What the ledger asks of its rows for every batch, in the driver's own words.

SQLAlchemy's take several times as long a row, and these are some for each request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from apportion.router.budget.schema import counters, reservations

T = TypeVar("T")

_CHUNK = 500  # values of one IN (...)


class Rows:
    """Reads and changes rows of counters and reservations; ids and amounts are all that is passed.

    Args:
        engine: of the database, which is SQLite or PostgreSQL.

    Attributes:
        locked_by_row: whoever changes rows has to read them first, in the order of their ids, so that nobody waits in a
            ring; else a transaction has the whole database.
    """

    def __init__(self, engine: Engine) -> None:
        sqlite = engine.dialect.name == "sqlite"
        self.locked_by_row = not sqlite
        self._mark = mark = "?" if sqlite else "%s"
        self._end = f"DELETE FROM {reservations.name} WHERE id IN (*) RETURNING amount_nano, charged, counters, id"
        locked = "" if sqlite else " FOR UPDATE"
        self._balances = (
            f"SELECT id, spent_nano, reserved_nano FROM {counters.name} WHERE id IN (*) ORDER BY id{locked}"
        )
        self._add = (
            f"UPDATE {counters.name} SET spent_nano = spent_nano + {mark}, reserved_nano = reserved_nano + {mark} "
            f"WHERE id = {mark}"
        )
        self._reserve = (
            f"INSERT INTO {reservations.name} (id, amount_nano, counters, expires_s) "
            f"VALUES ({mark}, {mark}, {mark}, {mark})"
        )

    def end(self, connection: Connection, ids: Sequence[str]) -> Iterator[Any]:
        """Takes reservations away: amount, whether it was charged, counters and id of each that was there."""
        return self._of(connection, self._end, ids)

    def balances(self, connection: Connection, ids: Sequence[int]) -> Iterator[Any]:
        """Id, spent and reserved of counters, whose rows stay locked; give the ids in order."""
        return self._of(connection, self._balances, ids)

    def add(self, connection: Connection, changes: Mapping[int, tuple[int, int]]) -> None:
        """Adds to what was spent and is reserved, by the counters' ids."""
        rows = [(spent, reserved, i) for i, (spent, reserved) in sorted(changes.items()) if spent or reserved]
        if rows:
            connection.exec_driver_sql(self._add, rows)

    def reserve(self, connection: Connection, taken: Sequence[tuple[str, int, str]], expires_s: float) -> None:
        """Writes reservations: ids, amounts and counters."""
        if taken:
            connection.exec_driver_sql(self._reserve, [(*one, expires_s) for one in taken])

    def _of(self, connection: Connection, statement: str, ids: Sequence[Any]) -> Iterator[Any]:
        for some in chunks(ids):
            marks = ", ".join([self._mark] * len(some))
            result: Any = connection.exec_driver_sql(statement.replace("*", marks), tuple(some))
            rows = result.cursor.fetchall()  # as they are: SQLAlchemy's own rows take as long to make as to fetch
            result.close()
            yield from rows


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """The values, as many at a time as one statement may name."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
