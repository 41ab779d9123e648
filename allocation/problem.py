"""The allocation problem: what may be deployed where, what it must serve, and the limits that hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from apportion.allocation.cluster import Cluster
from apportion.allocation.gpu_prices import GpuKind, GpuPrice
from apportion.allocation.gpus import CPU
from apportion.allocation.models import ModelSpec
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.workload import Workload
from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.errors import ConfigurationError, InvalidRequestError

GPUS_WORTH = 1e-3
"""Mean success that all GPUs without a known price have to earn, or a budget per hour: what is idle is left out."""
SUCCESS_USD = 0.01
"""What one more good answer is worth in USD unless said otherwise."""
HOUR_S = 3600


@dataclass(frozen=True)
class Requirements:
    """What a plan has to keep.

    budget_usd: mean cost of a request by the models' prices, inf: no limit. budget_usd_per_hour: what GPUs in use and
    bought tokens cost together, inf: no limit. success_usd: what one more good answer is worth, None: SUCCESS_USD, or
    as much as the budget per hour allows where there is one. target_utilisation: share of the replicas' tokens/s, and
    of quotas, that the mean demand may take; the rest is room for bursts. high_availability: no model loses all its
    replicas with one node. reserved_gpu_fraction: share of one GPU that stays free for the predictor. gpu_price: mean
    success that one more GPU has to earn whatever it costs, None: by its price. move_price: mean success that starting
    or stopping one replica has to earn, against the `running` ones. at_most: replicas of single types, none of those
    that it leaves out; None: no limit. at_least: of single types. gpus: least and most GPUs in use, by type and
    price; None: no limit.
    """

    budget_usd: float = float("inf")
    target_utilisation: float = 0.8
    high_availability: bool = False
    reserved_gpu_fraction: float = 0.0
    gpu_price: float | None = None
    move_price: float = 0.0
    running: Mapping[ReplicaType, int] = field(default_factory=dict)
    at_most: Mapping[ReplicaType, int] | None = None
    at_least: Mapping[ReplicaType, int] = field(default_factory=dict)
    budget_usd_per_hour: float = float("inf")
    success_usd: float | None = None
    gpus: Mapping[GpuKind, tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        for name in ("budget_usd", "budget_usd_per_hour"):
            if not getattr(self, name) >= 0:
                raise InvalidRequestError(f"{name}: {getattr(self, name)} is no amount of USD; give one >= 0")
        if self.success_usd is not None and not 0 < self.success_usd < float("inf"):
            raise InvalidRequestError(f"success_usd: {self.success_usd} is no worth of an answer; give USD above 0")
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

    success, cost_usd, tokens, all_tokens: (n_requests, n_models); tokens are output tokens, with input tokens at what
    reading them takes of a replica; all_tokens are prompts and answers. allowed: (n_requests, n_models) False where the
    context is too short or the model does not take the request. batch: (n_requests,) number of the batch that a request
    runs in, from 0. weight: (n_requests,) requests that a row stands for. in_time: tokens/s of a replica up to which
    bounds on latency are kept, of types that have such; others may be used up to the target.
    """

    cluster: Cluster
    models: tuple[ModelSpec, ...]
    profiles: tuple[Profile, ...]
    requirements: Requirements
    rate_per_s: float
    success: FloatArray
    cost_usd: FloatArray
    tokens: FloatArray
    all_tokens: FloatArray
    allowed: BoolArray
    batch: IntArray
    weight: FloatArray
    in_time: Mapping[ReplicaType, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cluster: Cluster,
        models: Sequence[ModelSpec],
        profiles: Sequence[Profile],
        workload: Workload,
        batches: IntArray,
        requirements: Requirements | None = None,
        *,
        at_once: float | None = None,
        in_time: Mapping[ReplicaType, float] | None = None,
    ) -> AllocationProblem:
        """The problem for sampled batches, (n_batches, batch_size) rows of the workload.

        Args:
            at_once: requests that a batch stands for; None: as many as it has rows.
            in_time: requests/s of a replica up to which bounds on latency are kept.

        Raises ConfigurationError when workload and models differ, no profile fits this cluster, or a budget per hour
        counts GPUs whose price is not known.
        """
        names = tuple(spec.name for spec in models)
        if workload.models != names:
            raise ConfigurationError(f"the workload is scored for {workload.models}, the models are {names}")
        requirements = requirements or Requirements()
        if requirements.reserved_gpu_fraction and set(cluster.gpu_types) == {CPU}:
            raise ConfigurationError("there is no GPU to reserve a share of; reserve nothing on a cluster of cores")
        if requirements.high_availability and cluster.mixed:
            raise ConfigurationError(
                f"high_availability: {', '.join(cluster.mixed)} have GPUs of several types, which are planned as nodes "
                "of their own; plan without high availability, or give each of them one type"
            )
        if cluster.unpriced and np.isfinite(requirements.budget_usd_per_hour):
            raise ConfigurationError(
                f"budget_usd_per_hour: no price is known of GPUs of type {', '.join(cluster.unpriced)}; give "
                "gpu_prices in the cluster's file, or --gpu-usd-per-hour"
            )
        usable = usable_profiles(cluster, models, profiles)
        rows = batches.ravel()
        estimates = workload.estimates.rows(rows)
        outputs = estimates.output_tokens * workload.answers[rows, None]
        tokens = outputs + estimates.input_tokens * reading_weight(models, usable)
        allowed = workload.allowed(models)[rows]
        return cls(
            cluster=cluster,
            models=tuple(models),
            profiles=usable,
            requirements=requirements,
            rate_per_s=workload.rate_per_s,
            success=estimates.success,
            cost_usd=estimates.cost_usd,
            tokens=tokens,
            all_tokens=outputs + estimates.input_tokens,
            allowed=allowed,
            batch=np.repeat(np.arange(len(batches)), batches.shape[1]),
            weight=np.full(len(rows), 1.0 if at_once is None else at_once / batches.shape[1]),
            in_time=_in_tokens(in_time or {}, names, tokens, allowed),
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

    @cached_property
    def bought(self) -> BoolArray:
        """(n_models,) those from outside, which are paid by the token."""
        return np.array([spec.quota is not None for spec in self.models])

    @property
    def usd_per_hour_price(self) -> float:
        """Mean success that one USD an hour has to earn."""
        required = self.requirements
        if required.success_usd is None and 0 < required.budget_usd_per_hour < float("inf"):
            return GPUS_WORTH / required.budget_usd_per_hour
        return 1 / (HOUR_S * self.rate_per_s * (required.success_usd or SUCCESS_USD))

    def gpu_price(self, price: GpuPrice | None) -> float:
        """Mean success that one GPU of this price has to earn."""
        if self.requirements.gpu_price is not None:
            return self.requirements.gpu_price
        if price is None:
            return GPUS_WORTH / self.cluster.n_gpus
        return self.usd_per_hour_price * price.usd_per_hour

    @cached_property
    def bought_usd_per_hour(self) -> FloatArray:
        """(n_requests, n_models) what a sampled request stands for in bought tokens; own models cost their GPUs."""
        per_hour = HOUR_S * self.rate_per_s * self.share[:, None]
        return np.asarray(per_hour * self.cost_usd * self.bought, np.float64)

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
        """(n_models,) concurrent sequences of so many replicas, or as a quota allows."""
        outside = np.array([spec.quota.max_at_once if spec.quota else 0 for spec in self.models], np.float64)
        return outside + self._sum(counts, [profile.max_num_seqs for profile in self.profiles])

    def tokens_per_s(self, counts: Mapping[ReplicaType, float]) -> FloatArray:
        """(n_models,) output tokens/s of so many replicas, or all tokens/s of a quota; inf: no limit."""
        outside = np.array([_per_s(spec.quota.tokens_per_minute) if spec.quota else 0 for spec in self.models])
        return outside + self._sum(counts, [profile.tokens_per_s for profile in self.profiles])

    @cached_property
    def planned_tokens_per_s(self) -> dict[ReplicaType, float]:
        """Output tokens/s that a replica of each type may be planned for; the target is taken of it still."""
        target = self.requirements.target_utilisation
        return {
            profile.replica: min(profile.tokens_per_s, self.in_time.get(profile.replica, np.inf) / target)
            for profile in self.profiles
        }

    def plannable_tokens_per_s(self, counts: Mapping[ReplicaType, float]) -> FloatArray:
        """As `tokens_per_s`, as far as bounds on latency allow."""
        limited = [self.planned_tokens_per_s[profile.replica] for profile in self.profiles]
        return self.tokens_per_s({}) + self._sum(counts, limited)

    @cached_property
    def requests_per_s(self) -> FloatArray:
        """(n_models,) that quotas allow; inf: no limit."""
        return np.array([_per_s(spec.quota.requests_per_minute if spec.quota else None) for spec in self.models])

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


def _in_tokens(
    in_time: Mapping[ReplicaType, float], models: Sequence[str], tokens: FloatArray, allowed: BoolArray
) -> dict[ReplicaType, float]:
    """Requests/s of every type in tokens/s, at the mean of the requests that its model may get."""
    mean = (tokens * allowed).sum(axis=0) / np.maximum(allowed.sum(axis=0), 1)
    return {replica: rate * float(mean[models.index(replica.model)]) for replica, rate in in_time.items()}


def _per_s(per_minute: float | None) -> float:
    return float("inf") if per_minute is None else per_minute / 60


def usable_profiles(cluster: Cluster, models: Sequence[ModelSpec], profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """Profiles that fit, of these models, on allowed GPU types of this cluster.

    Raises ConfigurationError when a model that must run has none, or none is left at all and no model is from outside.
    """
    largest = cluster.together
    usable: list[Profile] = []
    for spec in (spec for spec in models if spec.quota is None):
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
    if not usable and all(spec.quota is None for spec in models):
        types = ", ".join(sorted(cluster.gpu_types))
        reasons = sorted({f"{p.replica}: {p.reason}" for p in profiles if not p.fits and p.reason})
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise ConfigurationError(
            f"no profile fits this cluster{why}; profile the models for {types}, with other shares or more GPUs"
        )
    return tuple(usable)


def reading_weight(models: Sequence[ModelSpec], profiles: Sequence[Profile]) -> FloatArray:
    """(n_models,) output tokens that a replica could have made while it reads one input token; the most of any type.

    Quotas count a token of a prompt as one of an answer.
    """
    weight = {spec.name: 0.0 if spec.quota is None else 1.0 for spec in models}
    for profile in profiles:
        name = profile.replica.model
        weight[name] = max(weight[name], profile.tokens_per_s / profile.prefill_tokens_per_s)
    return np.array([weight[spec.name] for spec in models])
