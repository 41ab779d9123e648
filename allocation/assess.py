"""How given replicas do on requests that they were not planned for, at the planned load and at more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from apportion.allocation.plan import Assessment
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.replica import ReplicaType
from apportion.router.arrays import FloatArray, IntArray

REFUSAL = 1.0
"""Mean success that leaving a request without an answer costs."""

LOADS = (1.0, 1.2, 1.5)


def best_shares(
    problem: AllocationProblem, replicas: Mapping[ReplicaType, int], gpus_usd_per_hour: float = 0.0
) -> FloatArray:
    """(n_requests, n_models) shares of requests under the best assignment to these replicas.

    Rows sum to less than 1 where requests have to be refused, which is avoided where possible at all: the rows are
    those of `program`, with a column for refusing each request. The replicas may be used wholly: `target_utilisation`
    is room that a plan leaves, not a limit of the machines. gpus_usd_per_hour: what they take of a budget per hour.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix, hstack, identity, vstack

    n, m = problem.success.shape
    request, model = np.nonzero(problem.allowed & (problem.slots(replicas) > 0))
    column = np.arange(len(request))

    def rows(index: IntArray, value: FloatArray, count: int) -> Any:
        return coo_matrix((value, (index, column)), shape=(count, len(column)))

    unit = float(problem.tokens.mean()) or 1.0
    cost = (problem.share[:, None] * problem.cost_usd)[request, model]
    dearest = float(cost.max(initial=0.0)) or 1.0
    budget = problem.requirements.budget_usd
    tokens = problem.rate_per_s / unit * (problem.share[:, None] * problem.tokens)[request, model]
    limits = [
        (rows(problem.batch[request] * m + model, problem.weight[request], problem.n_batches * m),
         np.tile(problem.slots(replicas), problem.n_batches)),
        (rows(model, tokens, m), problem.tokens_per_s(replicas) / unit),
    ]  # fmt: skip
    if np.isfinite(problem.requests_per_s).any():
        limits.append((rows(model, problem.rate_per_s * problem.share[request], m), problem.requests_per_s))
    most_usd = problem.requirements.budget_usd_per_hour - gpus_usd_per_hour
    if math.isfinite(most_usd) and problem.bought.any():
        unit_usd = max(most_usd, 1.0)
        bought = problem.bought_usd_per_hour[request, model] / unit_usd
        limits.append((rows(np.zeros_like(request), bought, 1), np.array([max(most_usd, 0.0) / unit_usd])))
    if math.isfinite(budget):
        limits.append((rows(np.zeros_like(request), cost / dearest, 1), np.array([budget / dearest])))
    most = np.concatenate([limit for _, limit in limits])
    above = vstack([matrix for matrix, _ in limits]).tocsr()[np.isfinite(most)]
    found = linprog(
        np.concatenate([-(problem.share[:, None] * problem.success)[request, model], REFUSAL * problem.share]),
        A_ub=hstack([above, coo_matrix((above.shape[0], n))]).tocsr(),
        b_ub=most[np.isfinite(most)],
        A_eq=hstack([rows(request, np.ones(len(column)), n), identity(n)]).tocsr(),
        b_eq=np.ones(n),
        method="highs",
    )
    if found.x is None:
        raise AssertionError(f"refusing every request is always possible, but: {found.message}")
    x = np.zeros((n, m))
    x[request, model] = np.clip(found.x[: len(column)], 0.0, 1.0)
    return x


def assess(
    problem: AllocationProblem, replicas: Mapping[ReplicaType, int], load: float = 1.0, gpus_usd_per_hour: float = 0.0
) -> Assessment:
    """The replicas on the problem's requests at so many times its rate and its requests at once.

    gpus_usd_per_hour: what their GPUs take of a budget per hour, which does not grow with the load.
    """
    x = best_shares(problem.at_load(load), replicas, gpus_usd_per_hour)
    share = problem.share
    return Assessment(
        load=load,
        quality=float(share @ (problem.success * x).sum(axis=1)),
        refused=max(0.0, 1.0 - float(share @ x.sum(axis=1))),
        cost_usd=float(np.sum(share @ (problem.cost_usd * x))),
    )
