"""Which requests of an infeasible batch to admit, so that the rest of it is feasible."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from .problem import BatchProblem, BoolArray
from .program import RELATIVE_SLACK, Program
from .solver import Goal, most_admitted


def largest_feasible_subset(problem: BatchProblem, *, time_limit_s: float | None = None) -> BoolArray:
    """(n_requests,) True for requests to admit: as many as slots and budget take, the cheap ones first.

    The number is the largest possible, unless `time_limit_s` came first; weights do not count. The admitted
    requests alone (`problem.subset(mask)`) are always a feasible batch.
    """
    program = Program.of(problem)
    # Half of the rounding that is allowed for, so that sums in another order stay within it too.
    program = replace(program, budget=program.budget * (1 - RELATIVE_SLACK / 2))
    deadline = None if time_limit_s is None else time.perf_counter() + time_limit_s
    if np.isfinite(program.value).any():
        return most_admitted(program, Goal(deadline=deadline))
    return np.zeros(problem.n_requests, np.bool_)
