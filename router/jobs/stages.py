"""The two stages of a row's cascade, and the first answers that a job holds until a second one is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import BoolArray, FloatArray, IntArray

NOBODY = -1  # the column of a second model that is not asked


@dataclass(frozen=True, slots=True)
class FirstStage:
    """An answer that is its row's as long as there is no better one.

    Args:
        second: the model that may be asked on.
        sure: P(the answer is right), its signals known.
        given: P(the second one's would be), given that.
    """

    second: str
    sure: float
    given: float

    def packed(self) -> list[Any]:
        return [self.second, self.sure, self.given]


@dataclass(frozen=True, slots=True)
class SecondStage:
    """What came of asking on.

    Args:
        first: the model whose answer was held.
        kept: whether that answer is the row's, because the second model gave none.
    """

    first: str
    kept: bool

    def packed(self) -> list[Any]:
        return [self.first, self.kept]


Stage = FirstStage | SecondStage


def unpacked_stage(told: Sequence[Any]) -> Stage:
    """Raises: ValueError, TypeError: it is none."""
    if len(told) == 3:
        second, sure, given = told
        return FirstStage(second, float(sure), float(given))
    first, kept = told
    return SecondStage(first, bool(kept))


class HeldAnswers:
    """First answers that may still give way to a second one; ten bytes for each of a job's rows.

    Args:
        total: rows of the job.
    """

    def __init__(self, total: int) -> None:
        self._pairs: list[tuple[str, str]] = []
        self._pair: NDArray[np.int16] = np.full(total, NOBODY, np.int16)
        self._sure = np.zeros(total, np.float32)
        self._given = np.zeros(total, np.float32)

    @property
    def rows(self) -> BoolArray:
        """(N,) whose answer is held."""
        return np.asarray(self._pair != NOBODY)

    @property
    def sure(self) -> FloatArray:
        """(N,) P(the held answer is right)."""
        return self._sure.astype(np.float64)

    @property
    def given(self) -> FloatArray:
        """(N,) P(the second one's would be)."""
        return self._given.astype(np.float64)

    def __contains__(self, row: int) -> bool:
        return bool(self._pair[row] != NOBODY)

    def hold(self, row: int, first: str, stage: FirstStage) -> None:
        """The row has a first answer."""
        pair = (first, stage.second)
        if pair not in self._pairs:
            self._pairs.append(pair)
        self._pair[row] = self._pairs.index(pair)
        self._sure[row], self._given[row] = stage.sure, stage.given

    def drop(self, row: int) -> None:
        """The row has its answer."""
        self._pair[row] = NOBODY

    def first_of(self, row: int) -> str:
        """The model whose answer is held."""
        return self._pairs[int(self._pair[row])][0]

    def second(self, models: Sequence[str]) -> IntArray:
        """(N,) columns of the models that may be asked on, `NOBODY` where none is, or it is not among these."""
        columns = [models.index(second) if second in models else NOBODY for _, second in self._pairs]
        found: IntArray = np.array([*columns, NOBODY])[self._pair]
        return found
