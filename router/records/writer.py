"""Writes records in a thread of its own: whoever has rows to keep hands them over and never waits."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from apportion.router.records.schema import Kind
from apportion.router.records.store import Store

logger = logging.getLogger(__name__)

MOST_WAITING = 20  # segments' worth of rows that wait while the store does not take them
RETRY_S = 5.0  # after a segment that could not be written
PRUNE_EVERY = timedelta(hours=1)
PARTING_S = 5.0  # for the last segments of a process that stops

Row = Callable[[], dict[str, Any]]
"""Makes a row; called by the writer's thread."""


@dataclass
class _Lane:
    """Rows of one kind that wait for their segment, and how many there was no place for."""

    kind: Kind
    rows: deque[Row] = field(default_factory=deque)
    dropped: int = 0


class SegmentWriter:
    """Gathers rows into segments.

    A segment is written when there are `segment_rows`, or `segment_s` after the one before: so much at most is lost
    where the process is killed. What cannot be written is tried again, while rows wait up to a bound; beyond it new
    ones are dropped, and counted.

    Args:
        open_store: opens the store; called by the writer's thread.
        kinds: that are put.
        keep_days: older days are removed; None: none are.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        kinds: Sequence[Kind],
        *,
        segment_rows: int = 1000,
        segment_s: float = 60.0,
        keep_days: int | None = None,
    ) -> None:
        self._open = open_store
        self._segment_rows = segment_rows
        self._segment_s = segment_s
        self._keep_days = keep_days
        self._lanes = {kind.name: _Lane(kind) for kind in kinds}
        self._wake = threading.Event()
        self._closing = False
        self._store: Store | None = None
        self._pruned: datetime | None = None
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self.error: str | None = None

    def start(self) -> None:
        self._thread.start()

    def put(self, kind: Kind, row: Row) -> bool:
        """Whether the row is kept; it is dropped where too many wait already."""
        lane = self._lanes[kind.name]
        if len(lane.rows) >= MOST_WAITING * self._segment_rows:
            lane.dropped += 1
            return False
        lane.rows.append(row)
        if len(lane.rows) >= self._segment_rows:
            self._wake.set()
        return True

    def dropped(self, kind: Kind) -> int:
        """Rows of this kind that there was no place for."""
        return self._lanes[kind.name].dropped

    def close(self) -> None:
        """Writes what waits, if the store takes it in time."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(PARTING_S)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(RETRY_S if self.error else self._segment_s)
            self._wake.clear()
            self._write()

    def _write(self) -> None:
        """Writes all that waits, in segments; what fails is left for the next time."""
        try:
            store = self._store = self._store or self._open()
            for lane in self._lanes.values():
                while lane.rows:
                    self._segment(store, lane)
            self._prune(store)
        except Exception as error:  # whatever it is, the thread goes on, and what waits is tried again
            if self.error is None:
                logger.warning("records cannot be written, and wait: %s", type(error).__name__)
            self.error = type(error).__name__
        else:
            self.error = None

    def _segment(self, store: Store, lane: _Lane) -> None:
        count = min(len(lane.rows), self._segment_rows)
        table = _table(lane.kind, [lane.rows[place] for place in range(count)])
        if len(table):
            store.append(lane.kind, table, datetime.now(UTC))
        lane.dropped += count - len(table)
        for _ in range(count):
            lane.rows.popleft()

    def _prune(self, store: Store) -> None:
        now = datetime.now(UTC)
        if self._keep_days is None or (self._pruned is not None and now - self._pruned < PRUNE_EVERY):
            return
        for lane in self._lanes.values():
            store.prune(lane.kind, (now - timedelta(days=self._keep_days)).date())
        self._pruned = now


def _table(kind: Kind, rows: Sequence[Row]) -> pa.Table:
    """The rows as a segment has them; one that is none is left out, or it would hold up all others."""
    try:
        return pa.Table.from_pylist([row() for row in rows], kind.schema)
    except Exception as error:
        if len(rows) == 1:
            logger.error("a record is no row of %s: %s", kind.name, type(error).__name__)
            return kind.schema.empty_table()
        half = len(rows) // 2
        return pa.concat_tables([_table(kind, part) for part in (rows[:half], rows[half:])])
