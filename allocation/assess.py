"""How given replicas do on requests that they were not planned for, at the planned load and at more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from allocation.plan import Assessment
from allocation.problem import AllocationProblem
from allocation.program import add_assignment, quality_of, shares_of_requests
from allocation.replica import ReplicaType
from allocation.workload import FloatArray
from router.assignment.model import solve_model

LOADS = (1.0, 1.2, 1.5)


def best_shares(problem: AllocationProblem, replicas: Mapping[ReplicaType, int]) -> FloatArray:
    """(n_requests, n_models) shares of requests under the best assignment to these replicas.

    Rows sum to less than 1 where requests have to be refused, which is avoided where possible at all. The replicas
    may be used wholly: `target_utilisation` is room that a plan leaves, not a limit of the machines.
    """
    import pyomo.environ as pyo

    whole = problem.under(replace(problem.requirements, target_utilisation=1.0))
    model = pyo.ConcreteModel()
    add_assignment(model, whole, problem.slots(replicas).tolist(), problem.tokens_per_s(replicas).tolist(), refuse=True)
    model.quality = pyo.Objective(expr=quality_of(model, whole), sense=pyo.maximize)
    found = solve_model(model)
    if found.values is None:
        raise AssertionError("refusing every request is always possible")
    return shares_of_requests(model, found.values, problem.success.shape)


def assess(problem: AllocationProblem, replicas: Mapping[ReplicaType, int], load: float = 1.0) -> Assessment:
    """The replicas on the problem's requests at so many times its rate and its requests at once."""
    x = best_shares(problem.at_load(load), replicas)
    share = problem.share
    return Assessment(
        load=load,
        quality=float(share @ (problem.success * x).sum(axis=1)),
        refused=max(0.0, 1.0 - float(share @ x.sum(axis=1))),
        cost_usd=float(np.sum(share @ (problem.cost_usd * x))),
    )
