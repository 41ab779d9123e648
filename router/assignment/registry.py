"""Strategies by name, and the one function that assigns a batch."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from apportion.router.assignment.greedy import Greedy
from apportion.router.assignment.hull import Ndch, NdchP
from apportion.router.assignment.mip import Mip
from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.per_request import PerQuery, Price, Static, Threshold
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.robust import RobustMip
from apportion.router.assignment.strategy import Strategy
from apportion.router.errors import InvalidRequestError

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (Threshold, Ndch, NdchP, Mip, RobustMip, Greedy, Price, PerQuery, Static)
}


def assign(
    problem: BatchProblem,
    strategy: Strategy = Mip(),  # noqa: B008 (immutable)
    *,
    warm: Prices | None = None,
    seed: int = 0,
) -> Assignment:
    """Choose a model for every request of the batch.

    A batch that cannot be placed is an answer (`status` infeasible, `infeasibility` says why), not an exception.

    Args:
        warm: prices of an earlier batch with the same engines; those of its limits count where it had as many.
        seed: fixes the draws of random strategies.

    Raises:
        InvalidRequestError: `warm` has another number of engines, or the strategy needs an array that is not given.
    """
    if warm is not None and warm.slots.shape != (problem.n_engines,):
        raise InvalidRequestError(
            f"warm has prices for {warm.slots.shape[0]} engines, the batch has {problem.n_engines}; "
            "pass prices of the same engines, or None",
            param="warm",
        )
    if warm is not None and len(warm.limits) != len(problem.limits):
        warm = replace(warm, limits=np.zeros(len(problem.limits)))
    started = time.perf_counter()
    assignment = strategy.choose(problem, warm=warm, seed=seed)
    return replace(assignment, wall_time_s=time.perf_counter() - started)
