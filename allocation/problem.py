"""The allocation problem: what may be deployed where, what it must serve, and the limits that hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from apportion.allocation.cluster import Cluster
from apportion.allocation.gpus import CPU
from apportion.allocation.models import ModelSpec
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.workload import Workload
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.errors import ConfigurationError, InvalidRequestError

GPUS_WORTH = 1e-3
"""Quality that the whole cluster's GPUs have to earn unless said otherwise: idle ones are left out of the plan."""


@dataclass(frozen=True)
class Requirements:
    """What a plan has to keep.

    budget_usd: mean cost of a request, inf: no limit. target_utilisation: share of the replicas' tokens/s that the
    mean demand may take; the rest is room for bursts. high_availability: no model loses all its replicas with one
    node. reserved_gpu_fraction: share of one GPU that stays free for the predictor. gpu_price: mean success that one
    more GPU has to earn. move_price: mean success that starting or stopping one replica has to earn, against the
    `running` ones. at_most: replicas of single types, none of those that it leaves out; None: no limit.
    """

    budget_usd: float = float("inf")
    target_utilisation: float = 0.8
    high_availability: bool = False
    reserved_gpu_fraction: float = 0.0
    gpu_price: float | None = None
    move_price: float = 0.0
    running: Mapping[ReplicaType, int] = field(default_factory=dict)
    at_most: Mapping[ReplicaType, int] | None = None

    def __post_init__(self) -> None:
        if not self.budget_usd >= 0:
            raise InvalidRequestError(f"budget_usd: {self.budget_usd} is no amount of USD; give one >= 0")
        if not 0 < self.target_utilisation <= 1:
            raise InvalidRequestError(
                f"target_utilisation: {self.target_utilisation} is no share; give a number in (0, 1]"
            )
        if not 0 <= self.reserved_gpu_fraction <= 1:
            raise InvalidRequestError(
                f"reserved_gpu_fraction: {self.reserved_gpu_fraction} is no share of one GPU; give a number in [0, 1]"
            )
        for name in ("gpu_price", "move_price"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidRequestError(f"{name}: {value} is no price in mean success; give a number >= 0")


@dataclass(frozen=True, eq=False)
class AllocationProblem:
    """Requests in batches, the replica types that fit, a cluster, and requirements.

    success, cost_usd, tokens: (n_requests, n_models); tokens are output tokens, with input tokens at what reading
    them takes of a replica. allowed: (n_requests, n_models) False where the context is too short or the model does not
    take the request. batch: (n_requests,) number of the batch that a request runs in, from 0. weight: (n_requests,)
    requests that a row stands for.
    """

    cluster: Cluster
    models: tuple[ModelSpec, ...]
    profiles: tuple[Profile, ...]
    requirements: Requirements
    rate_per_s: float
    success: FloatArray
    cost_usd: FloatArray
    tokens: FloatArray
    allowed: BoolArray
    batch: IntArray
    weight: FloatArray

    @classmethod
    def of(
        cls,
        cluster: Cluster,
        models: Sequence[ModelSpec],
        profiles: Sequence[Profile],
        workload: Workload,
        batches: IntArray,
        requirements: Requirements | None = None,
    ) -> AllocationProblem:
        """The problem for sampled batches, (n_batches, batch_size) rows of the workload.

        Raises ConfigurationError when workload and models differ, or no profile fits this cluster.
        """
        names = tuple(spec.name for spec in models)
        if workload.models != names:
            raise ConfigurationError(f"the workload is scored for {workload.models}, the models are {names}")
        requirements = requirements or Requirements()
        if requirements.reserved_gpu_fraction and set(cluster.gpu_types) == {CPU}:
            raise ConfigurationError("there is no GPU to reserve a share of; reserve nothing on a cluster of cores")
        usable = usable_profiles(cluster, models, profiles)
        rows = batches.ravel()
        estimates = workload.estimates.rows(rows)
        outputs = estimates.output_tokens * workload.answers[rows, None]
        return cls(
            cluster=cluster,
            models=tuple(models),
            profiles=usable,
            requirements=requirements,
            rate_per_s=workload.rate_per_s,
            success=estimates.success,
            cost_usd=estimates.cost_usd,
            tokens=outputs + estimates.input_tokens * reading_weight(names, usable),
            allowed=workload.allowed(models)[rows],
            batch=np.repeat(np.arange(len(batches)), batches.shape[1]),
            weight=np.ones(len(rows)),
        )

    @property
    def n_requests(self) -> int:
        return int(self.success.shape[0])

    @property
    def n_models(self) -> int:
        return len(self.models)

    @property
    def n_batches(self) -> int:
        return int(self.batch.max()) + 1

    @cached_property
    def share(self) -> FloatArray:
        """(n_requests,) of the workload; sums to 1."""
        return np.asarray(self.weight / self.weight.sum(), np.float64)

    @property
    def gpu_price(self) -> float:
        """Mean success that one GPU has to earn."""
        given = self.requirements.gpu_price
        return GPUS_WORTH / self.cluster.n_gpus if given is None else given

    @cached_property
    def replicas(self) -> tuple[ReplicaType, ...]:
        """The types that may be deployed."""
        return tuple(profile.replica for profile in self.profiles)

    @cached_property
    def profile_of(self) -> dict[ReplicaType, Profile]:
        return {profile.replica: profile for profile in self.profiles}

    def replicas_of(self, model: int) -> tuple[ReplicaType, ...]:
        """The types of a model."""
        return tuple(r for r in self.replicas if r.model == self.models[model].name)

    def slots(self, counts: Mapping[ReplicaType, float]) -> FloatArray:
        """(n_models,) concurrent sequences of so many replicas."""
        return self._sum(counts, [profile.max_num_seqs for profile in self.profiles])

    def tokens_per_s(self, counts: Mapping[ReplicaType, float]) -> FloatArray:
        """(n_models,) output tokens/s of so many replicas."""
        return self._sum(counts, [profile.tokens_per_s for profile in self.profiles])

    def under(self, requirements: Requirements) -> AllocationProblem:
        """The same under other requirements."""
        return replace(self, requirements=requirements)

    def at_load(self, load: float) -> AllocationProblem:
        """So many times the rate, and so many times the requests at once."""
        return replace(self, rate_per_s=self.rate_per_s * load, weight=self.weight * load)

    def _sum(self, counts: Mapping[ReplicaType, float], each: Sequence[float]) -> FloatArray:
        total = np.zeros(self.n_models)
        column = {spec.name: j for j, spec in enumerate(self.models)}
        for replica, amount in zip(self.replicas, each, strict=True):
            total[column[replica.model]] += amount * counts.get(replica, 0)
        return total


def usable_profiles(cluster: Cluster, models: Sequence[ModelSpec], profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """Profiles that fit, of these models, on allowed GPU types of this cluster.

    Raises ConfigurationError when a model that must run has none, or none is left at all.
    """
    largest = Counter[str]()
    for node in cluster.nodes:
        largest[node.gpu_type] = max(largest[node.gpu_type], node.n_gpus)
    usable: list[Profile] = []
    for spec in models:
        allowed = set(cluster.gpu_types) if spec.gpu_types is None else set(spec.gpu_types)
        own = [p for p in profiles if p.replica.model == spec.name]
        kept = [
            p for p in own
            if p.fits and p.replica.gpu_type in allowed and p.replica.tensor_parallel <= largest[p.replica.gpu_type]
        ]  # fmt: skip
        if not kept and spec.min_replicas:
            reasons = sorted({p.reason for p in own if p.reason})
            why = f" ({reasons[0]})" if reasons else ""
            raise ConfigurationError(
                f"min_replicas: model {spec.name!r} needs {spec.min_replicas} replicas, but no profile of it "
                f"fits this cluster{why}; profile other shares or GPU counts, allow other GPU types, or set it to 0"
            )
        usable.extend(kept)
    if not usable:
        raise ConfigurationError("no profile fits this cluster; profile the models for its GPU types")
    return tuple(usable)


def reading_weight(models: Sequence[str], profiles: Sequence[Profile]) -> FloatArray:
    """(n_models,) output tokens that a replica could have made while it reads one input token; the most of any type."""
    weight = np.zeros(len(models))
    for profile in profiles:
        column = models.index(profile.replica.model)
        weight[column] = max(weight[column], profile.tokens_per_s / profile.prefill_tokens_per_s)
    return weight
