"""What an answer of the service is worth to the end-to-end benchmark."""

from __future__ import annotations

import pytest

from benchmarks.e2e.client import outcome
from benchmarks.load.chat import Answer
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import generate

EXAMPLE = generate("test", 1, 0)[0]
HEADERS = {
    "x-router-batch": "id=7;size=3;planned-usd=0.002;cap-usd=0.003",
    "x-router-settled-cost-usd": "0.0004",
    "x-router-cost-usd": "0.0005",
    "x-router-success": "0.75",
    "x-router-rung": "mip",
}


def test_an_answer_is_graded_and_its_headers_are_read() -> None:
    found = outcome(Answer(latency_s=0.2, text="no", model="wren", status=200, headers=HEADERS), EXAMPLE)
    assert (found.model, found.rung, found.batch) == ("wren", "mip", 7)
    assert (found.cost_usd, found.planned_usd, found.predicted) == (0.0004, 0.0005, 0.75)
    assert (found.batch_planned_usd, found.batch_cap_usd, found.latency_s) == (0.002, 0.003, 0.2)
    assert found.score == grade("no", EXAMPLE)


def test_a_refusal_for_want_of_money_counts_and_costs_nothing() -> None:
    found = outcome(Answer(latency_s=0.1, status=402, error="402: budget_exceeded"), EXAMPLE)
    assert (found.model, found.score, found.cost_usd) == ("(refused)", 0.0, 0.0)


def test_any_other_failure_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="503"):
        outcome(Answer(status=503, error="503: unavailable"), EXAMPLE)
