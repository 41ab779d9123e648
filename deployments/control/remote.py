"""The Solver as the batch room calls it: a function over its deployment handle."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle

from apportion.router.assignment import Assignment, BatchProblem, Strategy
from apportion.router.batch.planning.rungs import Solve


def solve_by(solver: DeploymentHandle) -> Solve:
    """The Solver's answer."""

    async def solve(problem: BatchProblem, strategy: Strategy) -> Assignment:
        assignment: Assignment = await solver.solve.remote(problem, strategy)
        return assignment

    return solve
