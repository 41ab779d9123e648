"""Clusters, models, profiles and workloads for the planner's tests."""

from __future__ import annotations

import numpy as np

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.workload import Workload
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice

GPU = GpuType("gpu", 80, 2000, 312)
PRICES = {"small": 0.1, "mid": 0.5, "large": 2.0}


def cluster(n_nodes: int = 2, n_gpus: int = 4) -> Cluster:
    return Cluster(tuple(Node(f"node-{i}", "gpu", n_gpus) for i in range(n_nodes)), {"gpu": GPU})


def specs(**changes: dict[str, object]) -> tuple[ModelSpec, ...]:
    """small, mid and large; keyword arguments change fields of a model."""
    return tuple(ModelSpec(n, "nowhere", ModelPrice(p, p), **changes.get(n, {})) for n, p in PRICES.items())


def profile(model: str, fraction: float, gpus: int, seqs: int, tokens_per_s: float, gpu: str = "gpu") -> Profile:
    replica = ReplicaType(model, gpu, fraction, gpus)
    return Profile(replica, True, seqs, tokens_per_s, 20 * tokens_per_s, 0.05, 1.0, 1.0, "computed")


def profiles() -> tuple[Profile, ...]:
    return (
        profile("small", 0.25, 1, 16, 500), profile("small", 0.5, 1, 48, 1200), profile("small", 1.0, 1, 128, 2500),
        profile("mid", 0.4, 1, 12, 400), profile("mid", 1.0, 1, 48, 1200),
        profile("large", 1.0, 2, 16, 400), profile("large", 1.0, 4, 64, 1000),
    )  # fmt: skip


def workload(n: int = 400, rate_per_s: float = 10.0, seed: int = 0) -> Workload:
    """Requests of varying difficulty for small, mid and large, with a spread of each estimate."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1.3, (n, 1))
    success = 1 / (1 + np.exp(difficulty - np.array([-0.5, 0.5, 2.0]) - rng.normal(0, 0.8, (n, 3))))
    output = rng.lognormal(4.5, 0.5, (n, 1)) * rng.lognormal(0, 0.2, (n, 3))
    inputs = np.repeat(rng.lognormal(5, 0.5, (n, 1)), 3, axis=1)
    cost = (output + inputs) * np.array(list(PRICES.values())) * 1e-6
    spread = rng.uniform(0.02, 0.2, (n, 3))
    return Workload(tuple(PRICES), Estimates(success, cost, inputs, output, success_std=spread), rate_per_s)


def problem(
    requirements: Requirements | None = None,
    *,
    on: Cluster | None = None,
    rate_per_s: float = 10.0,
    size: int = 40,
    count: int = 4,
    **changes: dict[str, object],
) -> AllocationProblem:
    work = workload(rate_per_s=rate_per_s)
    batches = work.batches(size, count)
    return AllocationProblem.of(on or cluster(), specs(**changes), profiles(), work, batches, requirements)
