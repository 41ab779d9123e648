"""Records and feedback as an outcomes table: what counts, what is left out, and what is said about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.files import read_outcomes, write_outcomes
from apportion.router.prices import ModelPrice
from apportion.router.records.join import join
from apportion.router.records.schema import FEEDBACK, PROMPTS, REQUESTS, Kind
from apportion.router.records.store import Store
from apportion.router.signals import SIGNALS, Signals
from apportion.router.traits import PLAIN

START = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Kept:
    """A store that tests fill."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(str(folder))

    def put(self, kind: Kind, *rows: dict[str, Any], day: datetime = START) -> None:
        self.store.append(kind, pa.Table.from_pylist(list(rows), kind.schema), day)

    def request(self, name: str, model: str = "small", at: int = 0, **fields: Any) -> None:
        row = {
            "id": name,
            "time": START + timedelta(seconds=at),
            "chosen": model,
            "ending": "answered",
            "status": 200,
            "input_tokens": 10,
            "output_tokens": 20,
            "cost_usd": 3e-5,
            "input_usd_per_million": 1.0,
            "output_usd_per_million": 1.0,
        }
        self.put(REQUESTS, row | fields)
        self.put(PROMPTS, {"id": name, "time": START, "prompt": f"ask {name}", **PLAIN._asdict()})

    def say(self, name: str, number: float | None, at: int = 100, key: str = "correct") -> None:
        self.put(FEEDBACK, {"id": name, "time": START + timedelta(seconds=at), "key": key, "number": number})


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "records")


def test_judged_answers_are_rows_with_one_model_known(kept: Kept, tmp_path: Path) -> None:
    kept.request("b", "large", at=1, cost_usd=9e-5)
    kept.request("a", "small")
    kept.request("unjudged", "large", at=2)
    kept.say("a", 1.0)
    kept.say("b", 0.25)
    kept.say("lost", 1.0)

    joined = join(kept.store)
    write_outcomes(joined.table, tmp_path / "table")
    table = read_outcomes(tmp_path / "table")
    assert (joined.requests, joined.answered, joined.judged, joined.strays) == (3, 3, 2, 1)
    assert joined.by_model == {"small": 1, "large": 1}
    assert table.models == ("large", "small")
    assert table.prompts == ["ask a", "ask b"]
    np.testing.assert_array_equal(table.scores, [[np.nan, 1.0], [0.25, np.nan]])
    np.testing.assert_array_equal(table.cost_usd, [[np.nan, 3e-5], [9e-5, np.nan]])
    np.testing.assert_array_equal(table.output_tokens, [[np.nan, 20], [20, np.nan]])
    assert table.prices == {"small": ModelPrice(1.0, 1.0), "large": ModelPrice(1.0, 1.0)}


def test_the_last_word_counts_and_null_takes_it_back(kept: Kept) -> None:
    for name in ("changed", "revoked", "again"):
        kept.request(name)
    kept.say("changed", 0.0, at=300)
    kept.say("changed", 1.0, at=200)  # written later, said earlier
    kept.say("revoked", 1.0, at=200)
    kept.say("revoked", None, at=300)
    kept.say("again", 1.0, at=200)
    kept.say("again", None, at=300)
    kept.say("again", 0.5, at=400)

    table = join(kept.store).table
    assert dict(zip(table.queries["query_id"], table.scores[:, 0], strict=True)) == {"changed": 0.0, "again": 0.5}


def test_what_no_model_answered_is_no_outcome(kept: Kept) -> None:
    kept.request("good")
    kept.request("lost", ending="connection_lost", status=503)
    kept.request("refused", status=400)
    kept.request("counted", output_tokens=0)  # tokens of a message, say
    kept.request("adopted", status=None)  # by a router that was started meanwhile: its engine answered all the same
    for name in ("good", "lost", "refused", "counted", "adopted"):
        kept.say(name, 1.0)

    joined = join(kept.store)
    assert sorted(joined.table.queries["query_id"]) == ["adopted", "good"]
    assert (joined.requests, joined.answered) == (5, 2)


def test_unjudged_answers_tell_lengths_where_that_is_asked_for(kept: Kept) -> None:
    kept.request("judged")
    kept.request("unjudged", "large", at=1)
    kept.say("judged", 1.0)

    table = join(kept.store, unjudged=True).table
    np.testing.assert_array_equal(table.scores, [[np.nan, 1.0], [np.nan, np.nan]])
    np.testing.assert_array_equal(table.output_tokens, [[np.nan, 20], [20, np.nan]])


def test_which_feedback_is_the_score_must_be_clear(kept: Kept) -> None:
    kept.request("a")
    kept.say("a", 1.0)
    kept.say("a", 0.5, key="rating")

    with pytest.raises(OutcomesTableError, match="correct, rating are all numbers"):
        join(kept.store)
    with pytest.raises(OutcomesTableError, match="nobody said 'stars'"):
        join(kept.store, "stars")
    assert join(kept.store, "rating").table.scores.tolist() == [[0.5]]


def test_without_prompts_it_says_what_is_missing(kept: Kept) -> None:
    kept.put(REQUESTS, {"id": "a", "time": START, "chosen": "small", "ending": "answered", "status": 200})
    with pytest.raises(OutcomesTableError, match="none of these judged"):
        join(kept.store)
    kept.say("a", 1.0)
    with pytest.raises(OutcomesTableError, match="none is known what was asked"):
        join(kept.store)


def test_only_the_days_that_are_asked_for_count(kept: Kept) -> None:
    kept.request("old")
    kept.put(REQUESTS, {"id": "new", "time": START, "chosen": "small", "ending": "answered"}, day=START + timedelta(2))
    kept.put(PROMPTS, {"id": "new", "time": START, "prompt": "p", **PLAIN._asdict()}, day=START + timedelta(2))

    assert len(join(kept.store, unjudged=True).table) == 2
    assert len(join(kept.store, unjudged=True, since=START.date() + timedelta(1)).table) == 1


def test_how_sure_models_were_goes_into_the_table(kept: Kept, tmp_path: Path) -> None:
    sure = Signals(-0.25, -1.0, -0.5, 4.0)
    kept.request("a", "large")
    kept.request("b", at=1, **sure._asdict())
    for name in "ab":
        kept.say(name, 1.0)
    before = set(Path(kept.store.root).glob("requests/*/*"))
    kept.request("c", at=2)
    (segment,) = set(Path(kept.store.root).glob("requests/*/*")) - before
    pq.write_table(pq.read_table(segment).drop_columns(list(SIGNALS)), segment)  # as before there were signals
    kept.say("c", 0.0)

    write_outcomes(join(kept.store).table, tmp_path / "table")
    table = read_outcomes(tmp_path / "table")
    unknown = [np.nan] * 4
    assert table.models == ("large", "small")
    np.testing.assert_array_equal(table.signals, [[unknown, unknown], [unknown, sure], [unknown, unknown]])
