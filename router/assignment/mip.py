"""The provably best assignment: prices, certified reduction, Pyomo model of the core, HiGHS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.assignment.highs import solve_model
from apportion.router.assignment.model import Rows, full_model
from apportion.router.assignment.outcome import Assignment, Infeasibility, Prices, Termination
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program
from apportion.router.assignment.solver import Goal, feasible, solve
from apportion.router.assignment.strategy import TimeLimited, check_gap
from apportion.router.assignment.summary import refuse, summarise
from apportion.router.checked import Doc


@dataclass(frozen=True)
class Mip(TimeLimited):
    """Maximise expected success under budget and slots, with a proof.

    With a time limit, the best answer found by then is returned with its bound.

    rows: functions that add a user's own constraints to the Pyomo model. With rows the whole model goes to
    HiGHS, since prices and reduction know only budget and slots, and the answer by the time limit is its own.
    """

    gap: Annotated[float, Doc("relative distance to the best possible at which an answer counts as optimal")] = 1e-4
    rows: tuple[Rows, ...] = ()

    name: ClassVar[str] = "mip"

    def __post_init__(self) -> None:
        check_gap(self.gap)
        super().__post_init__()

    @property
    def maximises_value(self) -> bool:
        return not self.rows

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        if self.rows:
            return self._with_rows(problem)
        return solve_batch(problem, self.name, self.gap, self.time_limit_s, warm=warm, seed=seed)

    def _with_rows(self, problem: BatchProblem) -> Assignment:
        program = Program.of(problem)
        allowed = np.isfinite(program.value)
        if not allowed.any(axis=1).all():
            return refuse(problem, self.name, feasible(program, Goal()).reason)
        solution = solve_model(full_model(problem, self.rows), gap=self.gap, time_limit_s=self.time_limit_s)
        if solution.values is None:
            message = "rows: no assignment keeps the limits and the added rows; relax one of them"
            reason = None if solution.timed_out else Infeasibility("rows", math.inf, math.inf, message)
            return refuse(problem, self.name, reason, proved=solution.infeasible)
        chosen = np.zeros(problem.success.shape)
        chosen[allowed] = solution.values
        return summarise(
            problem, chosen.argmax(axis=1), self.name,
            bound=solution.bound, gap=self.gap,
            termination=Termination.time_limit if solution.timed_out else Termination.gap,
        )  # fmt: skip


def solve_batch(
    problem: BatchProblem,
    name: str,
    gap: float,
    time_limit_s: float | None,
    *,
    value: FloatArray | None = None,
    warm: Prices | None = None,
    seed: int = 0,
) -> Assignment:
    """Solve a batch, with `value` (n_requests, n_models) in place of its objective if given."""
    goal = Goal.within(time_limit_s, gap)
    solved = solve(Program.of(problem, value), goal, warm, seed)
    if solved.model is None:
        return refuse(problem, name, solved.reason)
    return summarise(
        problem, solved.model, name,
        value=value, bound=solved.bound, gap=gap, prices=solved.prices,
        termination=Termination.time_limit if solved.timed_out else Termination.gap,
    )  # fmt: skip
