"""The cascades of a job's rows: which are planned, which first answers are held, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apportion.deployments.jobs.expectations import Expected
from apportion.deployments.jobs.row_client import Answered
from apportion.router.arrays import BoolArray
from apportion.router.cascade.pair import Pair
from apportion.router.jobs.planning.cascades import Stages
from apportion.router.jobs.planning.plan import JobPlan
from apportion.router.jobs.segments import Result
from apportion.router.jobs.stages import NOBODY, FirstStage, HeldAnswers, SecondStage
from apportion.router.unpriced import LAYERS

_SUCCESS = LAYERS.index("success")


class Cascading:
    """What a job knows of the two stages of its N rows.

    Args:
        expected: of all rows.
        models: names.
        held: first answers that there are.
        pairs: that are proved; none: every row has one answer.
    """

    def __init__(self, expected: Expected, models: Sequence[str], held: HeldAnswers, pairs: Sequence[Pair]) -> None:
        self._expected = expected
        self._models = tuple(models)
        self._pairs = {(pair.first, pair.second): pair for pair in pairs}
        self.held = held
        self._first = np.full(len(expected), NOBODY)  # as the last plan of the row has it
        self._second = np.full(len(expected), NOBODY)
        self._escalation = np.zeros(len(expected))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(self._pairs.values())

    def stages(self, rows: BoolArray) -> Stages:
        """Of some rows, by a mask (N,)."""
        second = self.held.second(self._models)
        return Stages(second, self.held.sure, self.held.given, self._expected.cascade_usd).rows(rows)

    def planned(self, rows: BoolArray, plan: JobPlan) -> None:
        """These rows, a mask (N,), have a new plan, which is of all N."""
        self._first[rows] = plan.model_of_row[rows]
        self._second[rows] = NOBODY if plan.second_of_row is None else plan.second_of_row[rows]
        self._escalation[rows] = 0.0 if plan.escalation is None else plan.escalation[rows]

    def later(self, row: int, column: int) -> tuple[int, float]:
        """The column that the row may be asked on after this one, and with which probability; `NOBODY`: none."""
        if row in self.held or self._first[row] != column:
            return NOBODY, 0.0
        return int(self._second[row]), float(self._escalation[row])

    def second_of(self, row: int, column: int) -> str | None:
        """The second model of the cascade that asking this one is a stage of; None: it is none."""
        second = column if row in self.held else self.later(row, column)[0]
        return None if second == NOBODY else self._models[second]

    def staged(self, result: Result, answered: Answered, second: str | None) -> Result:
        """The result with what it is to its row's cascade.

        Args:
            second: as `second_of` said when the row was sent.
        """
        if result.row in self.held:
            stage = SecondStage(self.held.first_of(result.row), kept=not result.ok)
            if result.ok:
                return replace(result, stage=stage)
            return Result(result.row, True, b"", None, result.cost_nano, result.tokens, stage)
        if second is None or result.model is None or not result.ok:
            return result
        return replace(result, stage=self._weighed(result.row, result.model, second, answered))

    def kept(self, result: Result) -> bool:
        """A result is on disk: whether its row waits for what the plan makes of its first answer."""
        if isinstance(result.stage, FirstStage):
            self.held.hold(result.row, result.model or "", result.stage)
        elif result.stage is not None:
            self.held.drop(result.row)
        return result.row in self.held

    def _weighed(self, row: int, first: str, second: str, answered: Answered) -> FirstStage:
        pair = self._pairs[first, second]
        prior = self._expected.table[_SUCCESS, row].astype(float)
        sure = prior[[self._models.index(first)]]
        if answered.signals is not None:
            sure = pair.posterior(sure, np.array([answered.signals]))
        given = pair.second_given(prior[[self._models.index(second)]], sure)
        return FirstStage(second, float(sure[0]), float(given[0]))
