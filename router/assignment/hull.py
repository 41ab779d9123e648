"""NDCH and NDCH(P): mixtures of two models around the budget on the non-decreasing convex hull.

Source: "LLM Routing for Batched Instructions" (2025). The hull is drawn over the models' mean cost and mean
success on the batch; the batch's budget per request lies between two neighbours of the hull, and the share of
requests that go to the dearer one spends the budget in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.per_request import LimitsAfterwards
from apportion.router.assignment.problem import BatchProblem


def hull(mean_cost_usd: FloatArray, mean_success: FloatArray) -> IntArray:
    """Indices of the models on the upper hull of (mean cost, mean success), both increasing along it."""
    order = np.lexsort((-mean_success, mean_cost_usd))
    corners: list[int] = []
    for j in order.tolist():
        if corners and mean_success[j] <= mean_success[corners[-1]]:
            continue
        while len(corners) > 1 and _above(mean_cost_usd, mean_success, corners[-2], corners[-1], j):
            corners.pop()
        corners.append(j)
    return np.array(corners, np.int64)


def _above(cost: FloatArray, success: FloatArray, a: int, b: int, c: int) -> bool:
    """Whether the segment from a to c passes over b."""
    left = (success[b] - success[a]) * (cost[c] - cost[a])
    return bool(left <= (success[c] - success[a]) * (cost[b] - cost[a]))


def mixture(problem: BatchProblem) -> tuple[int, int, float]:
    """(cheaper model, dearer model, share of the dearer) around the budget per request."""
    cost, success = _means(problem)
    corners = hull(cost, success)
    budget = problem.budget_usd / problem.n_requests
    above = int(np.searchsorted(cost[corners], budget, side="right"))
    if above == 0:
        return int(corners[0]), int(corners[0]), 0.0
    if above == len(corners):
        return int(corners[-1]), int(corners[-1]), 1.0
    low, high = int(corners[above - 1]), int(corners[above])
    return low, high, float((budget - cost[low]) / (cost[high] - cost[low]))


def _means(problem: BatchProblem) -> tuple[FloatArray, FloatArray]:
    return problem.cost_usd.mean(axis=0), problem.success.mean(axis=0)


@dataclass(frozen=True)
class Ndch(LimitsAfterwards):
    """Two models around the budget on the convex hull of mean cost and success, mixed at random."""

    name: ClassVar[str] = "ndch"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        low, high, share = mixture(problem)
        dear = np.random.default_rng(seed).random(problem.n_requests) < share
        return self.finish(problem, np.where(dear, high, low))


@dataclass(frozen=True)
class NdchP(LimitsAfterwards):
    """The mixture of ndch, but the cheaper model gets the requests that it is likeliest to answer well."""

    name: ClassVar[str] = "ndch_p"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        low, high, share = mixture(problem)
        easiest = np.argsort(-problem.success[:, low], kind="stable")
        model = np.full(problem.n_requests, high, np.int64)
        model[easiest[: problem.n_requests - int(share * problem.n_requests)]] = low
        return self.finish(problem, model)
