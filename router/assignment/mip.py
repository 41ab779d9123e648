"""The provably best assignment: prices, certified reduction, Pyomo model of the core, HiGHS."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .model import Rows, full_model, solve_model
from .outcome import Assignment, Infeasibility, Prices, Termination
from .problem import BatchProblem
from .summary import refuse, summarise


@dataclass(frozen=True)
class Mip:
    """Maximise expected success under budget and slots, with a proof.

    gap: relative distance to the best possible at which the answer counts as optimal.
    time_limit_s: return the best answer found, and its bound, by then; None = no limit.
    rows: functions that add a user's own constraints to the Pyomo model.
    """

    gap: float = 1e-4
    time_limit_s: float | None = None
    rows: tuple[Rows, ...] = ()

    name: ClassVar[str] = "mip"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        solution = solve_model(full_model(problem, self.rows), gap=self.gap, time_limit_s=self.time_limit_s)
        if solution.values is None:
            reason = Infeasibility("budget", 0.0, np.inf, "No assignment keeps every limit.")
            return refuse(problem, self.name, started, reason)
        chosen = np.zeros(problem.success.shape)
        keep = np.ones(problem.success.shape, np.bool_) if problem.allowed is None else problem.allowed
        chosen[keep] = solution.values
        return summarise(
            problem,
            chosen.argmax(axis=1),
            self.name,
            started,
            bound=solution.bound,
            gap=self.gap,
            termination=Termination.time_limit if solution.timed_out else Termination.gap,
        )
