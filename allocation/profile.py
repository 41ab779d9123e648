"""Computed profiles: every model on every share and tensor-parallel size of the GPU types that it may run on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apportion.allocation.architecture import QUANTISED_BITS, Architecture, read_architecture
from apportion.allocation.cluster import Cluster
from apportion.allocation.gpus import CPU, GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import GIB, Deployed
from apportion.router.errors import ConfigurationError

SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
TENSOR_PARALLEL = (2, 4, 8)
# vLLM's own default on most GPUs; with more, a step's latency grows for little throughput.
MAX_SEQUENCES = 256
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Typical:
    """A typical request, which speeds are given for.

    Attributes:
        prompt_tokens, answer_tokens: means.
        sequence_tokens: room in the cache for each of the sequences that run at once; None: the model's whole
            context, so that the cache can never run out. Less admits more sequences; vLLM interrupts some of them when
            the cache runs out all the same.
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
) -> tuple[Profile, ...]:
    """A profile for each model and each replica type that the cluster has room for, also for those that do not fit.

    architectures: by model; None: read from the models' sources.

    Raises:
        ConfigurationError: a model's configuration cannot be read, or asks for what it does not have; a wrong share.
    """
    largest = {name: max(n.n_gpus for n in cluster.nodes if n.gpu_type == name) for name in cluster.gpu_types}
    sizes = [(share, 1) for share in shares] + [(1.0, gpus) for gpus in tensor_parallel if gpus > 1]
    profiles = []
    for model in models:
        architecture = read_architecture(model.source) if architectures is None else architectures[model.name]
        _check(model, architecture)
        for name, gpu in cluster.gpu_types.items():
            if name == CPU or (model.gpu_types is not None and name not in model.gpu_types):
                continue
            profiles += [
                compute_profile(model, architecture, gpu, ReplicaType(model.name, name, share, gpus), typical)
                for share, gpus in sizes
                if gpus <= largest[name]
            ]
    return tuple(profiles)


def compute_profile(
    model: ModelSpec, architecture: Architecture, gpu: GpuType, replica: ReplicaType, typical: Typical
) -> Profile:
    """The profile of one replica type."""
    deployed = Deployed(
        model=architecture,
        gpu=gpu,
        share=replica.gpu_fraction,
        gpus=replica.tensor_parallel,
        weight_bits=_weight_bits(model, architecture),
        dtype_bytes=DTYPE_BYTES[model.dtype],
    )
    weights_gib = deployed.weight_bytes / GIB
    cache_gib = deployed.free_for_cache_gib(MAX_SEQUENCES)
    needed_gib = deployed.least_cache_bytes(model.max_model_len) / GIB
    reason = _misfit(architecture, replica, weights_gib, cache_gib, needed_gib, model.max_model_len)
    if reason:
        return Profile(replica, False, 0, 0.0, 0.0, 0.0, weights_gib, max(cache_gib, 0.0), "computed", reason)
    room_tokens = min(typical.sequence_tokens or model.max_model_len, model.max_model_len)
    sequences = min(MAX_SEQUENCES, int(cache_gib * GIB // deployed.cache_bytes(room_tokens)))
    context = min(typical.prompt_tokens + typical.answer_tokens // 2, model.max_model_len)
    curve = tuple((n, n / deployed.decode_step_s(n, context)) for n in concurrencies(sequences))
    prompt_tokens = min(typical.prompt_tokens, model.max_model_len)
    return Profile(
        replica=replica,
        fits=True,
        max_num_seqs=sequences,
        tokens_per_s=curve[-1][1],
        prefill_tokens_per_s=deployed.step_tokens / deployed.prefill_s(deployed.step_tokens),
        first_token_s=deployed.prefill_s(prompt_tokens),
        weights_gib=weights_gib,
        kv_cache_gib=cache_gib,
        source="computed",
        decode_curve=curve,
    )


def _check(model: ModelSpec, architecture: Architecture) -> None:
    if model.max_model_len > architecture.max_positions:
        raise ConfigurationError(
            f"model {model.name!r}: max_model_len {model.max_model_len} is above what {model.source} was made for "
            f"({architecture.max_positions}); lower it"
        )


def _weight_bits(model: ModelSpec, architecture: Architecture) -> float:
    """What the model's description says, else what the checkpoint says, else the dtype."""
    if model.quantisation is not None:
        return QUANTISED_BITS[model.quantisation]
    return architecture.quantised_bits or 8.0 * DTYPE_BYTES[model.dtype]


def _misfit(
    architecture: Architecture,
    replica: ReplicaType,
    weights_gib: float,
    cache_gib: float,
    needed_gib: float,
    max_model_len: int,
) -> str:
    gpus = replica.tensor_parallel
    if architecture.heads % gpus:
        return f"{architecture.heads} attention heads cannot be divided among {gpus} GPUs"
    if architecture.kv_heads % gpus and gpus % architecture.kv_heads:
        return f"{architecture.kv_heads} KV heads and {gpus} GPUs do not divide"
    if cache_gib < needed_gib:
        left = f"leaves {cache_gib:.1f} GiB" if cache_gib > 0 else f"is {-cache_gib:.1f} GiB too large"
        return f"with {weights_gib:.1f} GiB of weights it {left}; {max_model_len} tokens need {needed_gib:.2f} GiB"
    return ""


def concurrencies(most: int) -> list[int]:
    """1, 2, 4, ... and the most."""
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return [*powers, most]
