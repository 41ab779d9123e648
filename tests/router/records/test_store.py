"""Segments on a disk: whole or absent, read back, pruned by day; and the secret, which is one for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from apportion.router.errors import ConfigurationError
from apportion.router.records.schema import FEEDBACK, REQUESTS
from apportion.router.records.store import Store
from apportion.router.records.writer import MOST_WAITING, SegmentWriter

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "time": NOON, "key": "correct", "number": 1.0} | fields


def table(*names: str) -> pa.Table:
    return pa.Table.from_pylist([row(name) for name in names], FEEDBACK.schema)


def ids(store: Store, since: date = date.min) -> list[str]:
    return sorted(store.read(FEEDBACK, since)["id"].to_pylist())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def test_rows_come_back_as_they_were(store: Store) -> None:
    candidates = [{"model": "a", "allowed": True, "success": 0.5, "cost_usd": 1e-6}]
    written = {"id": "x", "time": NOON, "candidates": candidates, "cost_usd": 1e-9, "attempts": 2}
    store.append(REQUESTS, pa.Table.from_pylist([written], REQUESTS.schema), NOON)

    [read] = store.read(REQUESTS).to_pylist()
    assert {name: read[name] for name in written} == written
    assert read["rung"] is None


def test_days_are_read_and_pruned_as_a_whole(store: Store) -> None:
    for day in range(5):
        store.append(FEEDBACK, table(f"day {day}"), NOON - timedelta(days=day))

    assert ids(store, NOON.date() - timedelta(days=1)) == ["day 0", "day 1"]
    assert store.prune(FEEDBACK, NOON.date() - timedelta(days=2)) == 2
    assert ids(store) == ["day 0", "day 1", "day 2"]


def test_half_a_segment_is_none(store: Store, tmp_path: Path) -> None:
    store.append(FEEDBACK, table("whole"), NOON)
    folder = tmp_path / "feedback" / "2026-11-28"
    (folder / ".120000-cut.parquet").write_bytes(b"PAR1 cut off")

    assert ids(store) == ["whole"]


def test_a_segment_of_before_a_column_was_added_lacks_it(store: Store) -> None:
    store.append(FEEDBACK, table("old").drop_columns(["comment", "text"]), NOON)
    store.append(FEEDBACK, table("new"), NOON)

    assert ids(store) == ["new", "old"]
    assert store.read(FEEDBACK)["comment"].to_pylist() == [None, None]


def test_an_empty_store_has_no_rows(store: Store) -> None:
    assert len(store.read(FEEDBACK)) == 0
    assert store.prune(FEEDBACK, date.max) == 0


def test_the_secret_is_made_once_whoever_comes_first(store: Store, tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(store.secret())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert set(found) == {Store.open(str(tmp_path)).secret()}
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob(".secret*"))


def test_a_secret_that_is_none_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")

    with pytest.raises(OSError, match="holds 5 bytes instead of 32"):
        store.secret()


def test_what_is_no_store_is_told() -> None:
    with pytest.raises(ConfigurationError, match="records at nowhere://x"):
        Store.open("nowhere://x")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def writer(store: Store, **options: Any) -> SegmentWriter:
    made = SegmentWriter(lambda: store, [FEEDBACK], **{"segment_rows": 10, "segment_s": 3600, **options})
    made.start()
    return made


def put(made: SegmentWriter, *names: str) -> list[bool]:
    return [made.put(FEEDBACK, lambda name=name: row(name)) for name in names]


def test_full_segments_are_written_at_once_and_the_rest_at_the_end(store: Store) -> None:
    made = writer(store)
    put(made, *(f"{i:02}" for i in range(25)))
    wait_for(lambda: len(ids(store)) >= 20)

    made.close()
    assert ids(store) == [f"{i:02}" for i in range(25)]


def test_nothing_waits_for_longer_than_it_may(store: Store) -> None:
    made = writer(store, segment_s=0.05)
    put(made, "alone")

    wait_for(lambda: ids(store) == ["alone"])  # written while the writer lives
    made.close()


class _Broken:
    """A store that takes nothing until it is mended."""

    def __init__(self, store: Store, error: Exception) -> None:
        self.store, self.error, self.broken = store, error, True

    def append(self, *given: Any) -> None:
        if self.broken:
            raise self.error
        self.store.append(*given)


@pytest.mark.parametrize("error", [OSError("no space left on device"), RuntimeError("of the store's library")])
def test_what_cannot_be_written_waits_up_to_a_bound_and_is_counted_beyond(store: Store, error: Exception) -> None:
    broken = _Broken(store, error)
    made = writer(broken, segment_rows=2, segment_s=0.01)  # type: ignore[arg-type]
    kept = put(made, *(f"{i:03}" for i in range(2 * MOST_WAITING + 5)))
    wait_for(lambda: made.error == type(error).__name__)

    assert kept == [True] * 2 * MOST_WAITING + [False] * 5
    assert made.dropped(FEEDBACK) == 5
    broken.broken = False
    made.close()
    assert ids(store) == [f"{i:03}" for i in range(2 * MOST_WAITING)]


def test_a_row_that_is_none_holds_up_no_other(store: Store) -> None:
    made = writer(store)
    put(made, "a", "b")
    made.put(FEEDBACK, lambda: row("bad", number="no number"))
    made.put(FEEDBACK, lambda: {}["missing"])
    put(made, "c")
    made.close()

    assert ids(store) == ["a", "b", "c"]
    assert made.dropped(FEEDBACK) == 2


def test_the_writer_prunes(store: Store) -> None:
    now = datetime.now(UTC)
    store.append(FEEDBACK, table("old"), now - timedelta(days=9))
    store.append(FEEDBACK, table("young"), now - timedelta(days=7))
    made = writer(store, keep_days=8)  # also where nothing new is put
    made.close()

    assert ids(store) == ["young"]
