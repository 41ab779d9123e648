from __future__ import annotations

import pytest

from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import Example


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("Paris", "Paris", 1.0),
        (" paris.\n", "Paris", 1.0),
        ("3  7 12", "3 7 12", 1.0),
        ("Paris .", "Paris", 1.0),
        ("", "Paris", 0.0),
        ("Paris Paris", "Paris", 0.0),
        ("3712", "3 7 12", 0.0),
        ("42", "4", 0.0),
        ("<think>4+4+0=8 8;</think>8", "8", 1.0),
        ("<think>8</think>9", "8", 0.0),
        ("<think>8", "8", 0.0),
    ],
)
def test_only_blanks_case_full_stop_and_what_was_thought_before_are_forgiven(text, answer, score):
    assert grade(text, Example("?", answer, "capital", 1)) == score
