"""Computed profiles: every model on every share and tensor-parallel size of the GPU types that it may run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from apportion.allocation.architecture import Architecture, read_architecture
from apportion.allocation.cluster import Cluster
from apportion.allocation.division import undivided
from apportion.allocation.gpus import CPU, GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.numbers import numbers_of, unsupported
from apportion.allocation.origin import origin_of
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import GIB, Deployed
from apportion.router.errors import ConfigurationError

SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
TENSOR_PARALLEL = (2, 4, 8)
# vLLM's own default on most GPUs; with more, a step's latency grows for little throughput.
MAX_SEQUENCES = 256


@dataclass(frozen=True)
class Typical:
    """A typical request, which speeds are given for.

    Attributes:
        prompt_tokens, answer_tokens: means.
        sequence_tokens: room in the cache for each of the sequences that run at once; None: for a typical request. A
            plan finds the sequences anew, by the lengths of its own requests.
    """

    prompt_tokens: int = 512
    answer_tokens: int = 256
    sequence_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("prompt_tokens", self.prompt_tokens), ("answer_tokens", self.answer_tokens)):
            if value < 1:
                raise ConfigurationError(f"{name}: {value} is below 1; give what a typical request has")
        if self.sequence_tokens is not None and self.sequence_tokens < 1:
            raise ConfigurationError(f"sequence_tokens: {self.sequence_tokens} is below 1; give more, or leave it out")


def compute_profiles(
    models: Sequence[ModelSpec],
    cluster: Cluster,
    typical: Typical,
    shares: Iterable[float] = SHARES,
    tensor_parallel: Iterable[int] = TENSOR_PARALLEL,
    architectures: Mapping[str, Architecture] | None = None,
    hashes: Mapping[str, str] | None = None,
) -> tuple[Profile, ...]:
    """A profile for each model and each replica type that the cluster has room for, also for those that do not fit.

    architectures: by model; None: read from the models' sources. hashes: of their `config.json`, by model.

    Raises:
        ConfigurationError: a model's configuration cannot be read, or asks for what it does not have; a wrong share.
    """
    profiles = []
    for model in models:
        if architectures is None:
            architecture = read_architecture(model.source, model.revision)
        else:
            architecture = architectures[model.name]
        _check(model, architecture)
        origin = origin_of(model, (hashes or {}).get(model.name, ""))
        for replica in replica_types(model, cluster, shares, tensor_parallel):
            computed = compute_profile(model, architecture, cluster.gpu_types[replica.gpu_type], replica, typical)
            profiles.append(replace(computed, origin=origin))
    return tuple(profiles)


def replica_types(
    model: ModelSpec,
    cluster: Cluster,
    shares: Iterable[float] = SHARES,
    tensor_parallel: Iterable[int] = TENSOR_PARALLEL,
) -> list[ReplicaType]:
    """Those of a model on GPUs that it may run on and that a node of the cluster has enough of."""
    largest = cluster.together
    sizes = [(share, 1) for share in shares] + [(1.0, gpus) for gpus in tensor_parallel if gpus > 1]
    return [
        ReplicaType(model.name, name, share, gpus)
        for name in cluster.gpu_types
        if name != CPU and (model.gpu_types is None or name in model.gpu_types)
        for share, gpus in sizes
        if gpus <= largest[name]
    ]


def compute_profile(
    model: ModelSpec, architecture: Architecture, gpu: GpuType, replica: ReplicaType, typical: Typical
) -> Profile:
    """The profile of one replica type."""
    numbers = numbers_of(model, architecture)
    deployed = Deployed(
        model=architecture,
        gpu=gpu,
        share=replica.gpu_fraction,
        gpus=replica.tensor_parallel,
        numbers=numbers,
    )
    weights_gib = deployed.weight_bytes / GIB
    cache_gib = deployed.free_for_cache_gib(MAX_SEQUENCES)
    needed_gib = deployed.least_cache_bytes(model.max_model_len) / GIB
    reason = (
        unsupported(model, numbers, gpu)
        or undivided(architecture, numbers.quantisation, replica.tensor_parallel)
        or _too_large(weights_gib, cache_gib, needed_gib, model.max_model_len)
    )
    if reason:
        return Profile(replica, False, 0, 0.0, 0.0, 0.0, weights_gib, max(cache_gib, 0.0), "computed", reason)
    room_tokens = typical.sequence_tokens or typical.prompt_tokens + typical.answer_tokens
    room_tokens = min(room_tokens, model.max_model_len)
    sequences = min(MAX_SEQUENCES, int(cache_gib * GIB // deployed.cache_bytes(room_tokens)))
    context = min(typical.prompt_tokens + typical.answer_tokens // 2, model.max_model_len)
    curve = tuple((n, n / deployed.decode_step_s(n, context)) for n in concurrencies(MAX_SEQUENCES))
    prompt_tokens = min(typical.prompt_tokens, model.max_model_len)
    return Profile(
        replica=replica,
        fits=True,
        max_num_seqs=sequences,
        tokens_per_s=sequences / deployed.decode_step_s(sequences, context),
        prefill_tokens_per_s=deployed.step_tokens / deployed.prefill_s(deployed.step_tokens),
        first_token_s=deployed.prefill_s(prompt_tokens),
        weights_gib=weights_gib,
        kv_cache_gib=cache_gib,
        source="computed",
        decode_curve=curve,
        sequence_gib=tuple((n, deployed.cache_bytes(n) / GIB) for n in concurrencies(model.max_model_len)),
    )


def _check(model: ModelSpec, architecture: Architecture) -> None:
    if model.max_model_len > architecture.max_positions:
        raise ConfigurationError(
            f"model {model.name!r}: max_model_len {model.max_model_len} is above what {model.source} was made for "
            f"({architecture.max_positions}); lower it"
        )


def _too_large(weights_gib: float, cache_gib: float, needed_gib: float, max_model_len: int) -> str:
    if cache_gib < needed_gib:
        left = f"leaves {cache_gib:.1f} GiB" if cache_gib > 0 else f"is {-cache_gib:.1f} GiB too large"
        return f"with {weights_gib:.1f} GiB of weights it {left}; {max_model_len} tokens need {needed_gib:.2f} GiB"
    return ""


def concurrencies(most: int) -> list[int]:
    """1, 2, 4, ... and the most."""
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return [*powers, most]
