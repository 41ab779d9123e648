"""Calibration in the large: how many judged answers were good of as many as were expected to be, by model."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray

REMEMBERED = 10_000  # answers that may still be judged here; later feedback counts in records only
WINDOW = 1_000  # judged answers that count, the last ones
_LEAST_VARIANCE = 1e-4


@dataclass(slots=True)
class _Answer:
    model: int
    success: float
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Gaps:
    """Judged answers by model, each array (M,): how many, how good they were and were expected to be, NaN without any,
    and by how many standard deviations of what chance does these two differ.
    """

    judged: FloatArray
    scores: FloatArray
    expected: FloatArray
    deviations: FloatArray


class Judged:
    """Remembers what was expected of answers until they are judged.

    Args:
        n_models: M of them.
    """

    def __init__(self, n_models: int) -> None:
        self._n_models = n_models
        self._open: OrderedDict[str, _Answer] = OrderedDict()
        self._judged: OrderedDict[str, _Answer] = OrderedDict()

    def answered(self, name: str, model: int, success: float) -> None:
        """A model has answered."""
        self._open[name] = _Answer(model, success)
        if len(self._open) > REMEMBERED:
            self._open.popitem(last=False)

    def judge(self, name: str, score: float | None) -> None:
        """How good the answer was; what is said last counts, and None takes it back."""
        answer = self._judged.pop(name, None) or self._open.get(name)
        if answer is None or score is None:
            return
        answer.score = score
        self._judged[name] = answer
        if len(self._judged) > WINDOW:
            self._judged.popitem(last=False)

    def gaps(self) -> Gaps:
        """How expectations and judgements compare."""
        answers = list(self._judged.values())
        models = np.array([one.model for one in answers], dtype=np.int64)
        expected = np.array([one.success for one in answers], dtype=np.float64)
        scores = np.array([one.score for one in answers], dtype=np.float64)

        def total(values: FloatArray) -> FloatArray:
            return np.bincount(models, weights=values, minlength=self._n_models).astype(np.float64)

        count = total(np.ones(len(answers)))
        chance = np.maximum(total(expected * (1 - expected)), _LEAST_VARIANCE)
        with np.errstate(invalid="ignore"):
            return Gaps(
                count,
                np.divide(total(scores), count),
                np.divide(total(expected), count),
                np.where(count > 0, (total(scores) - total(expected)) / np.sqrt(chance), 0.0),
            )
