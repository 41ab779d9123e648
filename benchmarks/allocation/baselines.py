"""Allocations that do without the optimiser: uniform, proportional to demand, greedy.

All fill the same GPUs replica by replica, each model with the type that gives the most tokens/s for a GPU among those
that still fit, and stop when nothing fits or nothing is gained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from apportion.allocation.assess import best_shares
from apportion.allocation.near import Room
from apportion.allocation.plan import PlacedReplica
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.replica import ReplicaType
from apportion.allocation.sketch import sketch
from apportion.router.arrays import FloatArray

Replicas = Counter[ReplicaType]

GREEDY_REQUESTS = 100
LEAST_GAIN = 1e-4


def uniform(problem: AllocationProblem) -> Replicas:
    """Every model gets as many GPUs as every other, as far as whole replicas allow."""
    return _fill(problem, lambda given: -given)


def proportional(problem: AllocationProblem) -> Replicas:
    """Every model gets GPUs in proportion to what it would take if there were GPUs for all that the budget buys."""
    need = _gpus_wanted(problem)
    target = need / need.sum() * problem.cluster.n_gpus
    return _fill(problem, lambda given: np.where(target > 0, target - given, -np.inf))


def greedy(problem: AllocationProblem) -> Replicas:
    """The replica with the largest gain in expected success for a GPU, one after another.

    Gains are looked up again only while they could still be the largest (lazy greedy).
    """
    small = sketch(problem, GREEDY_REQUESTS) if problem.n_requests > GREEDY_REQUESTS else problem
    small = replace(small, rate_per_s=small.rate_per_s / small.requirements.target_utilisation)
    room, chosen = Room(problem.cluster, ()), Counter[ReplicaType]()
    value = _worth(small, chosen)
    last = np.full(problem.n_models, np.inf)
    while True:
        fresh: set[int] = set()
        while True:
            best = int(last.argmax())
            if last[best] <= LEAST_GAIN:
                return chosen
            replica = _best_that_fits(problem, room, best)
            if replica is None:
                last[best] = -np.inf
            elif best in fresh:
                break
            else:
                fresh.add(best)
                last[best] = (_worth(small, chosen + Counter([replica])) - value) / replica.gpus
        _put(room, replica)
        chosen[replica] += 1
        value = _worth(small, chosen)


def _fill(problem: AllocationProblem, urgency: Callable[[FloatArray], FloatArray]) -> Replicas:
    """Adds a replica to the most urgent model until nothing fits.

    urgency: (n_models,) from the GPUs given so far; -inf for models that get none.
    """
    room, chosen, given = Room(problem.cluster, ()), Counter[ReplicaType](), np.zeros(problem.n_models)
    full = np.zeros(problem.n_models, bool)
    while not full.all():
        wish = np.where(full, -np.inf, urgency(given))
        model = int(wish.argmax())
        if not np.isfinite(wish[model]):
            break
        replica = _best_that_fits(problem, room, model)
        if replica is None:
            full[model] = True
            continue
        _put(room, replica)
        chosen[replica] += 1
        given[model] += replica.gpus
    return chosen


def _gpus_wanted(problem: AllocationProblem) -> FloatArray:
    """(n_models,) GPUs that the best assignment within the budget takes when replicas are without limit."""
    plenty = Counter(dict.fromkeys(problem.replicas, 10_000))
    x = best_shares(problem, plenty)
    demand = problem.rate_per_s * (problem.share @ (problem.tokens * x))
    wanted = np.zeros(problem.n_models)
    for j in range(problem.n_models):
        fastest = max((problem.profile_of[r].tokens_per_s / r.gpus for r in problem.replicas_of(j)), default=0.0)
        wanted[j] = demand[j] / fastest if fastest else 0.0
    return wanted


def _worth(problem: AllocationProblem, replicas: Replicas) -> float:
    x = best_shares(problem, replicas)
    return float(problem.share @ (problem.success * x).sum(axis=1) - (1 - problem.share @ x.sum(axis=1)))


def _best_that_fits(problem: AllocationProblem, room: Room, model: int) -> ReplicaType | None:
    fitting = [r for r in problem.replicas_of(model) if room.find(r) is not None]
    return max(fitting, key=lambda r: problem.profile_of[r].tokens_per_s / r.gpus, default=None)


def _put(room: Room, replica: ReplicaType) -> None:
    spot = room.find(replica)
    if spot is None:
        raise AssertionError(f"{replica} was found to fit")
    room.add(PlacedReplica(replica, *spot))
