"""Which requests of an infeasible batch to admit, so that the rest of it is feasible."""

from __future__ import annotations

import numpy as np

from .problem import BatchProblem, BoolArray
from .summary import budget_limit


def largest_feasible_subset(problem: BatchProblem) -> BoolArray:
    """(n_requests,) True for requests to admit: cheapest first under slots and budget.

    The admitted requests alone are always a feasible batch.
    """
    cost = (
        problem.cost_usd if problem.allowed is None else np.where(problem.allowed, problem.cost_usd, np.inf)
    )
    free = problem.slots.copy()
    left = budget_limit(problem.budget_usd)
    admit = np.zeros(problem.n_requests, np.bool_)
    for i in np.lexsort((cost.min(axis=1), problem.load)).tolist():
        open_cost = np.where(free >= problem.load[i], cost[i], np.inf)
        j = int(open_cost.argmin())
        if open_cost[j] <= left:
            admit[i] = True
            left -= open_cost[j]
            free[j] -= problem.load[i]
    return admit
