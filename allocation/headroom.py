"""What a plan leaves free of its GPUs: replicas on a share of one take it, where that costs no GPU more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apportion.allocation.patterns import Packing
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.program import Counts, add_packing, replicas_in
from apportion.allocation.replica import ReplicaType
from apportion.router.assignment.highs import solve_model

# Of a search that only improves on what is good already.
_SEARCH_S = 5.0


def grown(problem: AllocationProblem, packings: Sequence[Packing], counts: Counts, gpus: Mapping[int, int]) -> Counts:
    """The replicas, each on the share of its GPU that gives the most tokens/s while all take no more than these GPUs.

    gpus: in use, by class. Replicas that run already stay as they are: growing would stop and start them.
    """
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    add_packing(model, packings)
    total = replicas_in(counts)
    running, most = problem.requirements.running, problem.requirements.at_most
    ways = [
        (small, large, c)
        for (small, c), number in counts.items()
        for large in packings[c].replicas
        if number and _grows(problem, small, large)
    ]
    if not ways:
        return counts
    model.grow = pyo.Var(ways, domain=pyo.NonNegativeIntegers)
    from_, into = _by(ways, 0), _by(ways, 1)
    model.balance = pyo.Constraint(
        list(model.y),
        rule=lambda _, r, c: (
            model.y[r, c]
            == counts[r, c]
            - sum(model.grow[way] for way in from_.get((r, c), ()))
            + sum(model.grow[way] for way in into.get((r, c), ()))
        ),
    )
    model.no_more = pyo.Constraint(list(gpus), rule=lambda _, c: model.gpus_used[c] <= gpus[c])
    kinds = {way[0] for way in ways}
    free = {small: max(total[small] - running.get(small, 0), 0) for small in kinds}
    model.stays = pyo.Constraint(
        sorted(kinds), rule=lambda _, r: sum(model.grow[way] for way in ways if way[0] == r) <= free[r]
    )
    if most is not None:
        larger = sorted({way[1] for way in ways})
        model.of_type = pyo.Constraint(
            larger, rule=lambda _, r: sum(model.y[key] for key in model.y if key[0] == r) <= most.get(r, 0)
        )
    least = problem.requirements.at_least
    if least:
        model.least_of_type = pyo.Constraint(
            sorted(least), rule=lambda _, r: sum(model.y[key] for key in model.y if key[0] == r) >= least[r]
        )
    gain = {way: _speed(problem, way[1]) / _speed(problem, way[0]) - 1 for way in ways}
    model.most = pyo.Objective(expr=sum(gain[way] * model.grow[way] for way in ways), sense=pyo.maximize)
    found = solve_model(model, gap=1e-3, time_limit_s=_SEARCH_S, variables=list(model.y.values()))
    if found.values is None:
        return counts
    return +Counter(dict(zip(model.y, np.rint(found.values).astype(int).tolist(), strict=True)))


def _grows(problem: AllocationProblem, small: ReplicaType, large: ReplicaType) -> bool:
    """Whether a replica on a larger share of one GPU does all that the smaller one does, and more."""
    if small.model != large.model or large.tensor_parallel > 1 or large.units <= small.units:
        return False
    slots = (problem.profile_of[small].max_num_seqs, problem.profile_of[large].max_num_seqs)
    return slots[1] >= slots[0] and _speed(problem, large) > _speed(problem, small)


def _speed(problem: AllocationProblem, replica: ReplicaType) -> float:
    return problem.profile_of[replica].tokens_per_s


def _by(ways: Sequence[tuple[ReplicaType, ReplicaType, int]], place: int) -> dict[tuple[ReplicaType, int], list[Any]]:
    found: dict[tuple[ReplicaType, int], list[Any]] = {}
    for way in ways:
        replica = way[1] if place else way[0]
        found.setdefault((replica, way[2]), []).append(way)
    return found
