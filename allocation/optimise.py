"""Solving the joint program: a start from a sketch of the requests, then all of them, with the bound that is proved."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.allocation.patterns import Packing, node_classes, packings
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.program import Counts, Solution, joint_program, replicas_in, solve
from apportion.allocation.replica import ReplicaType
from apportion.allocation.sketch import SKETCH_REQUESTS, sketch
from apportion.router.arrays import FloatArray
from apportion.router.assignment.highs import PyomoModel, solve_model
from apportion.router.errors import DeadlineError, InfeasibleError

DEFAULT_GAP = 1e-3
DEFAULT_TIME_LIMIT_S = 60.0
_SKETCH_TIME = 0.25


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best replicas found, by (type, index of a packing's class), and what is proved about them.

    gpus, nodes: how many follow a pattern of their packing, by (class, pattern). x: (n_requests, n_models) shares.
    objective: mean success less the prices of GPUs and moves; bound: no plan has a higher one. quality, cost_usd: means
    of a request. timed_out: the time limit came before the gap.
    """

    packings: tuple[Packing, ...]
    counts: Counts
    gpus: Counter[tuple[int, int]]
    nodes: Counter[tuple[int, int]]
    x: FloatArray
    objective: float
    bound: float
    quality: float
    cost_usd: float
    timed_out: bool

    @property
    def gap(self) -> float:
        return max(self.bound - self.objective, 0.0) / max(abs(self.objective), 1e-12)

    @property
    def replicas(self) -> Counter[ReplicaType]:
        """Replicas of each type over all classes."""
        return replicas_in(self.counts)


def optimise(
    problem: AllocationProblem,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    alone: Collection[str] = (),
) -> Optimum:
    """The best plan within the relative gap, or the best by the time limit.

    alone: names of nodes that are told apart from their equals.
    Raises InfeasibleError when the requirements cannot all be met, DeadlineError when no plan was found in time.
    """
    deadline = time.perf_counter() + time_limit_s
    packed = packings(
        node_classes(problem.cluster, alone), problem.replicas, problem.requirements.reserved_gpu_fraction
    )
    model = joint_program(problem, packed)
    if problem.n_requests > 2 * SKETCH_REQUESTS:
        _start_from_sketch(model, problem, packed, gap, time_limit_s)
    left = max(deadline - time.perf_counter(), 0.1)
    found = solve(model, problem.success.shape, gap=gap, time_limit_s=left)
    if found.x is None:
        if found.infeasible:
            raise InfeasibleError("the requirements cannot all be met on this cluster")
        raise DeadlineError(f"no plan was found in {time_limit_s:g} s; allow more time")
    return _optimum(problem, packed, found, found.x)


def _optimum(problem: AllocationProblem, packed: tuple[Packing, ...], found: Solution, x: FloatArray) -> Optimum:
    return Optimum(
        packings=packed,
        counts=found.counts,
        gpus=found.gpus,
        nodes=found.nodes,
        x=x,
        objective=found.objective,
        bound=found.bound,
        quality=float(problem.share @ (problem.success * x).sum(axis=1)),
        cost_usd=float(problem.share @ (problem.cost_usd * x).sum(axis=1)),
        timed_out=found.timed_out,
    )


def _start_from_sketch(
    model: PyomoModel, problem: AllocationProblem, packed: tuple[Packing, ...], gap: float, time_limit_s: float
) -> None:
    """Gives all variables of the model the values of the sketch's replicas, where these serve all requests."""
    small = sketch(problem)
    limit = _SKETCH_TIME * time_limit_s
    found = solve(joint_program(small, packed), small.success.shape, gap=max(gap, 2e-3), time_limit_s=limit)
    if found.x is None:
        return
    for variables, values in ((model.y, found.counts), (model.w, found.gpus), (model.v, found.nodes)):
        for key, variable in variables.items():
            variable.fix(values.get(key, 0))
    fixed = [*model.y.values(), *model.w.values(), *model.v.values()]
    free = [variable for variable in _variables(model) if not variable.fixed]
    answer = solve_model(model, gap=gap, time_limit_s=limit, variables=free)
    if answer.values is None:
        for variable in fixed:
            variable.set_value(None)
    else:
        for variable, value in zip(free, answer.values.tolist(), strict=True):
            variable.set_value(float(np.rint(value)) if variable.is_integer() else value, skip_validation=True)
    for variable in fixed:
        variable.unfix()


def _variables(model: PyomoModel) -> list[Any]:
    import pyomo.environ as pyo

    return list(model.component_data_objects(pyo.Var))
