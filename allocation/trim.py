"""Taking out what a plan within its gap may still hold for nothing: replicas that no request needs, GPUs half used.

What is then left of a GPU goes to the replicas on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apportion.allocation.headroom import grown
from apportion.allocation.optimise import Optimum
from apportion.allocation.patterns import Packing
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.program import Counts, add_packing, gpus_by_class, moves_of, replicas_in
from apportion.allocation.replica import ReplicaType
from apportion.router.assignment.highs import solve_model

_SLACK = 1e-9


def trim(problem: AllocationProblem, optimum: Optimum) -> Optimum:
    """The optimum without replicas that its own assignment does not need, packed on the fewest GPUs.

    Keeps every requirement, and never costs: the objective is the same or higher, the bound stays. Replicas take larger
    shares of their GPUs where nobody else needs them.
    """
    counts = _needed(problem, optimum)
    gpus, _ = pack(optimum.packings, counts)
    counts = grown(problem, optimum.packings, counts, gpus_by_class(counts, gpus))
    gpus, nodes = pack(optimum.packings, counts)
    price = problem.requirements.move_price * moves_of(problem, counts)
    price += problem.usd_per_hour_price * float((problem.bought_usd_per_hour * optimum.x).sum())
    for c, used in gpus_by_class(counts, gpus).items():
        price += problem.gpu_price(optimum.packings[c].node_class.price) * used
    trimmed = replace(optimum, counts=counts, gpus=gpus, nodes=nodes, objective=optimum.quality - price)
    return trimmed if trimmed.objective >= optimum.objective - _SLACK else optimum


def pack(packings: Sequence[Packing], counts: Counts) -> tuple[Counter[tuple[int, int]], Counter[tuple[int, int]]]:
    """Patterns of GPUs and nodes that hold these replicas on the fewest GPUs, which are known to suffice."""
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    add_packing(model, packings)
    for key, variable in model.y.items():
        variable.fix(counts.get(key, 0))
    model.fewest = pyo.Objective(expr=-sum(model.gpus_used.values()), sense=pyo.maximize)
    keys = [*(("w", key) for key in model.w), *(("v", key) for key in model.v)]
    if not keys:  # all is bought
        return Counter(), Counter()
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
    for key in sorted(counts, key=lambda key: (-_price(problem, optimum.packings, key), -key[0].gpus, key)):
        while counts[key] and _spare(problem, optimum.packings, counts, key, at_once, demand):
            counts[key] -= 1
    return +counts


def _price(problem: AllocationProblem, packings: Sequence[Packing], key: tuple[ReplicaType, int]) -> float:
    """What a replica's GPUs have to earn."""
    return problem.gpu_price(packings[key[1]].node_class.price) * key[0].gpus


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
    total = replicas_in(counts)
    required = problem.requirements
    column = next(j for j, spec in enumerate(problem.models) if spec.name == replica.model)
    if total[replica] <= max(required.running.get(replica, 0), required.at_least.get(replica, 0)):
        return False
    own = sum(number for r, number in total.items() if r.model == replica.model)
    if own <= problem.models[column].min_replicas:
        return False
    total[replica] -= 1
    slots, tokens = problem.slots(total)[column], problem.plannable_tokens_per_s(total)[column]
    if slots < at_once[column] - _SLACK or tokens < demand[column] * (1 - _SLACK):
        return False
    return not required.high_availability or own == 1 or _on_two_nodes(packings, counts - Counter([key]), replica.model)


def _on_two_nodes(packings: Sequence[Packing], counts: Counts, model: str) -> bool:
    in_class: Counter[int] = Counter()
    for (replica, c), number in counts.items():
        if replica.model == model:
            in_class[c] += number
    return sum(min(number, len(packings[c].node_class.nodes)) for c, number in in_class.items()) >= 2
