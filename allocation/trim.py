"""Taking out what a plan within its gap may still hold for nothing: replicas that no request needs, GPUs half used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apportion.allocation.optimise import Optimum
from apportion.allocation.patterns import Packing
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.program import Counts, add_packing, gpus_of, moves_of
from apportion.allocation.replica import ReplicaType
from apportion.router.assignment.highs import solve_model

_SLACK = 1e-9


def trim(problem: AllocationProblem, optimum: Optimum) -> Optimum:
    """The optimum without replicas that its own assignment does not need, packed on the fewest GPUs.

    Keeps every requirement, and never costs: the objective is the same or higher, the bound stays.
    """
    counts = _needed(problem, optimum)
    gpus, nodes = pack(optimum.packings, counts)
    used = gpus_of(counts, gpus)
    price = problem.gpu_price * used + problem.requirements.move_price * moves_of(problem, counts)
    trimmed = replace(optimum, counts=counts, gpus=gpus, nodes=nodes, objective=optimum.quality - price)
    return trimmed if trimmed.objective >= optimum.objective else optimum


def pack(packings: Sequence[Packing], counts: Counts) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    """Patterns of GPUs and nodes that hold these replicas on the fewest GPUs, which are known to suffice."""
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    add_packing(model, packings)
    for key, variable in model.y.items():
        variable.fix(counts.get(key, 0))
    model.fewest = pyo.Objective(expr=-model.gpus_used, sense=pyo.maximize)
    keys = [*(("w", key) for key in model.w), *(("v", key) for key in model.v)]
    found = solve_model(model, gap=1e-6, variables=[*model.w.values(), *model.v.values()])
    if found.values is None:
        raise AssertionError("replicas of a solution can be packed")
    whole = np.rint(found.values).astype(int).tolist()
    gpus: Counter[tuple[int, int]] = Counter()
    nodes: Counter[tuple[int, int]] = Counter()
    for (kind, key), number in zip(keys, whole, strict=True):
        if number:
            (gpus if kind == "w" else nodes)[key] = number
    return gpus, nodes


def _needed(problem: AllocationProblem, optimum: Optimum) -> Counts:
    counts = Counter(optimum.counts)
    x = optimum.x
    at_once = np.stack([problem.weight[rows] @ x[rows] for rows in _batches(problem)]).max(axis=0)
    demand = problem.rate_per_s * (problem.share @ (problem.tokens * x)) / problem.requirements.target_utilisation
    for key in sorted(counts, key=lambda key: (-key[0].gpus, key)):
        while counts[key] and _spare(problem, optimum.packings, counts, key, at_once, demand):
            counts[key] -= 1
    return +counts


def _batches(problem: AllocationProblem) -> list[np.ndarray]:
    return [np.flatnonzero(problem.batch == k) for k in range(problem.n_batches)]


def _spare(
    problem: AllocationProblem,
    packings: Sequence[Packing],
    counts: Counts,
    key: tuple[ReplicaType, int],
    at_once: np.ndarray,
    demand: np.ndarray,
) -> bool:
    """Whether one replica of this type and class can go while every requirement still holds."""
    replica = key[0]
    total: Counter[ReplicaType] = Counter()
    for (r, _), number in counts.items():
        total[r] += number
    required = problem.requirements
    column = next(j for j, spec in enumerate(problem.models) if spec.name == replica.model)
    if total[replica] <= required.running.get(replica, 0):
        return False
    own = sum(number for r, number in total.items() if r.model == replica.model)
    if own <= problem.models[column].min_replicas:
        return False
    total[replica] -= 1
    slots, tokens = problem.slots(total)[column], problem.tokens_per_s(total)[column]
    if slots < at_once[column] - _SLACK or tokens < demand[column] * (1 - _SLACK):
        return False
    return not required.high_availability or own == 1 or _on_two_nodes(packings, counts - Counter([key]), replica.model)


def _on_two_nodes(packings: Sequence[Packing], counts: Counts, model: str) -> bool:
    in_class: Counter[int] = Counter()
    for (replica, c), number in counts.items():
        if replica.model == model:
            in_class[c] += number
    return sum(min(number, len(packings[c].node_class.nodes)) for c, number in in_class.items()) >= 2
