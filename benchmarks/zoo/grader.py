"""Checks an answer against the right one."""

from __future__ import annotations

from benchmarks.zoo.tasks import Example


def normalise(text: str) -> str:
    """Lower case, single blanks, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def grade(answer_text: str, example: Example) -> float:
    """1.0 where the answer equals the right one after normalisation, else 0.0."""
    return float(normalise(answer_text) == normalise(example.answer))
