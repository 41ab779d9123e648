"""Rows of records, of what the batch room tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apportion.deployments.control.record_rows import MAX_TRIED, RecordRows
from apportion.router.batch.events import AttemptEnded, RequestEnded, RequestRefused
from apportion.router.batch.messages import Course, Decision, Ending
from apportion.router.batch.stages import Second, second_id
from apportion.router.budget import Account
from apportion.router.records.names import AnswerNames
from apportion.router.signals import SIGNALS, Signals
from tests.deployments.ingress.dispatching import BATCH

ANN = Account("ann")


def ended(kind: type[AttemptEnded], earlier: int, model: str, name: str = "r", **fields: Any) -> AttemptEnded:
    course = Course(earlier, 0.0, None, 1.0, 200 if kind is RequestEnded else None)
    attempt = f"{name}-{earlier}" if earlier else name
    return kind(1e9, attempt, ANN, model, Ending.answered, 2_000, True, course=course, **fields)


@pytest.fixture
def kept() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def rows(kept: list[dict[str, Any]]) -> RecordRows:
    return RecordRows("router", lambda make: kept.append(make(AnswerNames(b"s" * 32))))


def test_attempts_are_one_row_with_the_first_plan_and_the_last_answer(
    rows: RecordRows, kept: list[dict[str, Any]]
) -> None:
    rows(ended(AttemptEnded, 0, "wren"))
    rows(ended(AttemptEnded, 1, "lark"))
    rows(ended(RequestEnded, 2, "heron"))
    rows(ended(RequestEnded, 0, "finch", "other"))

    told = [(row["id"], row["planned"], row["chosen"], row["attempts"], row["cost_usd"]) for row in kept]
    assert told == [("r", "wren", "heron", 3, 2e-6), ("other", "finch", "finch", 1, 2e-6)]


def test_what_another_router_had_decided_is_a_row_too(rows: RecordRows, kept: list[dict[str, Any]]) -> None:
    rows(RequestEnded(1e9, "r", ANN, "wren", Ending.given_up, 5, False))

    [row] = kept
    assert (row["id"], row["chosen"], row["ending"]) == ("r", "wren", "given_up")


def test_what_is_remembered_of_attempts_is_forgotten(rows: RecordRows) -> None:
    rows(ended(AttemptEnded, 0, "wren"))
    rows(RequestRefused(1e9, "r-1", ANN, None, "unavailable", 503, 0.1))
    assert not rows._planned
    for i in range(MAX_TRIED + 5):
        rows(ended(AttemptEnded, 0, "wren", f"r{i}"))
    assert len(rows._planned) == MAX_TRIED


def test_how_sure_the_model_was_is_kept_where_it_was_asked(rows: RecordRows, kept: list[dict[str, Any]]) -> None:
    sure = Signals(-0.25, -1.0, -0.5, 4.0)
    for name, signals in (("asked", sure), ("not", None)):
        course = Course(0, 0.0, None, 1.0, 200, signals=signals)
        rows(RequestEnded(1e9, name, ANN, "wren", Ending.answered, 5, True, course=course))

    assert [[row.get(name) for name in SIGNALS] for row in kept] == [list(sure), [None] * 4]


def stage(
    kind: type[AttemptEnded], name: str, model: str, *, second: str | None = None, signals: Signals | None = None
) -> AttemptEnded:
    course = Course(name.endswith("-0"), 0.0, 0.5, 1.0, 200 if kind is RequestEnded else None, signals=signals)
    asked = None if second is None else Second(second_id(name), second, 0.1, 0.2)
    decision = Decision(name, model, 0.5, 1e-6, 0.0, "mip", "mip", BATCH, second=asked)
    return kind(1e9, name, ANN, model, Ending.answered, 2_000, True, decision=decision, course=course)


def test_a_cascade_is_one_row_of_both_its_stages(rows: RecordRows, kept: list[dict[str, Any]]) -> None:
    sure, unsure = Signals(-0.1, -0.3, -0.2, 2.0), Signals(-2.0, -6.0, -4.0, 0.5)
    rows(stage(RequestEnded, "one", "wren", second="heron", signals=sure))
    rows(stage(AttemptEnded, "two", "wren", second="heron", signals=unsure))
    rows(stage(RequestEnded, "two-0", "heron"))
    rows(stage(RequestEnded, "three", "wren"))

    told = [(row["id"], row["planned"], row["chosen"], row.get("second"), row.get("kept")) for row in kept]
    assert told == [
        ("one", "wren", "wren", "heron", True),
        ("two", "wren", "heron", "heron", False),
        ("three", "wren", "wren", None, None),
    ]
    assert kept[0]["mean_logprob"] == -0.1
    assert "first_mean_logprob" not in kept[0]
    assert (kept[1]["first_cost_usd"], kept[1]["first_mean_logprob"], kept[1]["attempts"]) == (2e-6, -2.0, 2)
    assert "mean_logprob" not in kept[1], "nobody asked the second how sure it was"
    assert not rows._firsts


def test_each_stage_of_a_row_of_a_job_is_a_request_of_a_cascade(rows: RecordRows, kept: list[dict[str, Any]]) -> None:
    rows(replace(stage(RequestEnded, "one", "wren"), row_second="heron"))
    rows(replace(stage(RequestEnded, "two", "heron"), row_second="heron"))

    told = [(row["id"], row["chosen"], row["second"], row.get("kept")) for row in kept]
    assert told == [("one", "wren", "heron", None), ("two", "heron", "heron", False)]
