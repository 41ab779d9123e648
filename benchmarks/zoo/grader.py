"""Checks an answer against the right one."""

from __future__ import annotations

from benchmarks.zoo.tasks import Example
from benchmarks.zoo.tokenizer import END_THINK


def normalise(text: str) -> str:
    """Lower case, single blanks, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def after_thinking(text: str) -> str:
    """What follows a thought; the whole text where there is none, or where it has no end."""
    return text.rpartition(END_THINK)[2]


def grade(answer_text: str, example: Example) -> float:
    """1.0 where the answer, after any thought, equals the right one after normalisation, else 0.0."""
    return float(normalise(after_thinking(answer_text)) == normalise(example.answer))
