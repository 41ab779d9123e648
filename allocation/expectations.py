"""Bounds on latency in a plan: what replicas may be planned for under them, and what requests can expect of it then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from apportion.allocation.latency import Expected, LatencyBounds, Queue, expected, few_rows, within
from apportion.allocation.models import ModelSpec
from apportion.allocation.optimise import Optimum
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.sizing import Lengths, lengths_of
from apportion.allocation.workload import Workload
from apportion.router.arrays import FloatArray, IntArray


def in_time(
    profiles: Sequence[Profile], models: Sequence[ModelSpec], workload: Workload, bounds: LatencyBounds
) -> tuple[tuple[Profile, ...], dict[ReplicaType, float]]:
    """Profiles as far as they keep the bounds, and up to how many requests/s a replica of each type does.

    Each replica is looked at by itself; several of a model share what waits, so together they are never later.
    """
    if not bounds.any:
        return tuple(profiles), {}
    lengths = dict(zip((spec.name for spec in models), lengths_of(models, workload), strict=True))
    kept: list[Profile] = []
    rates: dict[ReplicaType, float] = {}
    for profile in profiles:
        own = lengths.get(profile.replica.model)
        if not profile.fits or own is None:
            kept.append(profile)
            continue
        found = within(profile, own, bounds)
        if isinstance(found, str):
            kept.append(replace(profile, fits=False, reason=found))
        else:
            kept.append(found[0])
            rates[profile.replica] = found[1]
    return tuple(kept), rates


def expectations(
    problem: AllocationProblem, optimum: Optimum, workload: Workload, rows: IntArray, percentile: float
) -> tuple[Expected, ...]:
    """Of every model with own replicas and requests.

    Args:
        rows: of the workload, one for each request of the problem.
    """
    found = []
    for j, spec in enumerate(problem.models):
        rate_per_s = problem.rate_per_s * float(problem.share @ optimum.x[:, j])
        counts = {r: n for r, n in optimum.replicas.items() if r.model == spec.name}
        if not counts or rate_per_s < 1e-9 * problem.rate_per_s:
            continue
        lengths = _lengths(workload, rows, j, problem.share * optimum.x[:, j])
        each = rate_per_s * float(lengths.weight.sum())
        found.append(expected(spec.name, _queues(problem, counts, few_rows(lengths), each), percentile))
    return tuple(found)


def _lengths(workload: Workload, rows: IntArray, model: int, weight: FloatArray) -> Lengths:
    """Of the requests that go to the model; the weights sum to the answers of one of them."""
    weight = weight / weight.sum() * workload.answers[rows]
    there = np.flatnonzero(weight > 1e-12)
    estimates = workload.estimates.rows(rows[there])
    return Lengths(estimates.input_tokens[:, model], estimates.output_tokens[:, model], weight[there])


def _queues(
    problem: AllocationProblem, counts: Mapping[ReplicaType, int], lengths: Lengths, rate_per_s: float
) -> list[tuple[Queue, int]]:
    """The queues of each type's replicas, each with as much of the requests as it has of the model's speed."""
    queues = {replica: Queue(problem.profile_of[replica], lengths, 0.0) for replica in counts}
    together = sum(queues[replica].most_per_s * number for replica, number in counts.items())
    return [
        (replace(queues[replica], rate_per_s=rate_per_s * queues[replica].most_per_s / together), number)
        for replica, number in counts.items()
    ]
