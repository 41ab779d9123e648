"""Rows of a job that wait to be sent: a queue for each model, in which those that begin alike follow each other.

Whichever model has room gets its next rows, so that no row waits behind another model's. What failed comes again later.
Knows no clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import BoolArray, IntArray

NOWHERE = -1  # the model of a row that no plan has a place for


class Backlog:
    """Rows by the model that the plan has for them.

    Args:
        beginnings: (N,) numbers that stand for how rows begin, so that an engine finds in its cache what it has read.
        n_models: models.
    """

    def __init__(self, beginnings: NDArray[Any], n_models: int) -> None:
        self._beginnings = beginnings
        self._waiting = np.zeros(len(beginnings), np.bool_)
        self._model = np.full(len(beginnings), NOWHERE, np.int32)
        self._queues: list[deque[int]] = [deque() for _ in range(n_models)]
        self._later: list[list[tuple[float, int]]] = [[] for _ in range(n_models)]
        self._due_s: dict[int, float] = {}

    def __len__(self) -> int:
        return int(self._waiting.sum())

    @property
    def waiting(self) -> BoolArray:
        """(N,) rows that wait, those without a place included."""
        return self._waiting.copy()

    @property
    def unplaced(self) -> IntArray:
        """Rows that wait and have no model."""
        return np.flatnonzero(self._waiting & (self._model == NOWHERE))

    def counts(self) -> list[int]:
        """Rows that wait for each model."""
        placed = self._model[self._waiting & (self._model != NOWHERE)]
        return [int(count) for count in np.bincount(placed, minlength=len(self._queues))]

    @property
    def models(self) -> IntArray:
        """(N,) models of the rows that wait; NOWHERE for the others."""
        return np.where(self._waiting, self._model, NOWHERE)

    def add(self, rows: BoolArray) -> None:
        """Rows (N,) that are to be sent, as soon as they have a place."""
        self._waiting |= rows

    def place(self, model: IntArray) -> None:
        """The rows that wait go by these models, (N,), from now on."""
        self._model[self._waiting] = model[self._waiting]
        order = np.argsort(self._beginnings, kind="stable")
        for queue in self._queues:
            queue.clear()
        self._later = [[] for _ in self._queues]
        for row in order[self._waiting[order]].tolist():
            if (column := int(self._model[row])) != NOWHERE:
                self._put(row, column)

    def move(self, row: int, column: int, due_s: float = 0.0) -> None:
        """A row comes (again) and goes to this model, not before `due_s`."""
        self._waiting[row] = True
        self._model[row] = column
        if due_s:
            self._due_s[row] = due_s
        if column != NOWHERE:
            self._put(row, column)

    def take(self, column: int, now_s: float) -> int | None:
        """The model's next row, which waits no more; None: there is none for now."""
        later = self._later[column]
        if later and later[0][0] <= now_s:
            row = heapq.heappop(later)[1]
        elif self._queues[column]:
            row = self._queues[column].popleft()
        else:
            return None
        self._waiting[row] = False
        self._due_s.pop(row, None)
        return row

    def drop(self, row: int) -> None:
        """A row without a place is not to be sent any more."""
        self._waiting[row] = False

    def _put(self, row: int, column: int) -> None:
        if (due_s := self._due_s.get(row)) is not None:
            heapq.heappush(self._later[column], (due_s, row))
        else:
            self._queues[column].append(row)
