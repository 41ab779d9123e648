"""The settings of a replica that must agree: Ray's share, vLLM's memory fraction, its cache, sequences, the bundle."""

from __future__ import annotations

from typing import Any

from apportion.allocation.gpus import CPU, GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import CONTEXT_GIB, GIB, memory_fraction, step_tokens
from apportion.router.errors import ConfigurationError

MIB = 1 << 20
_EPSILON = 1e-9


def cache_bytes(kv_cache_gib: float, replica: ReplicaType) -> int:
    """vLLM's `kv_cache_memory_bytes`, which is for one GPU: whole MiB."""
    return int(kv_cache_gib * GIB / replica.tensor_parallel // MIB) * MIB


def replica_settings(
    model: ModelSpec, replica: ReplicaType, gpu: GpuType, *, max_num_seqs: int, kv_cache_gib: float, num_cpus: float
) -> dict[str, Any]:
    """The fields of one replica in the service's configuration: resources, sequences, vLLM's arguments.

    Args:
        gpu: of the replica's type.
        kv_cache_gib: over all GPUs of the replica.
        num_cpus: CPUs that Ray reserves for a replica on a GPU; on the CPU its share of a core counts.
    """
    arguments: dict[str, Any] = {
        "dtype": model.dtype,
        "kv_cache_memory_bytes": cache_bytes(kv_cache_gib, replica),
        # A step has room for a token of every sequence, or vLLM does not start.
        "max_num_batched_tokens": max(step_tokens(gpu), max_num_seqs),
    }
    if model.quantisation == "fp8":  # done while loading; other formats are read from the checkpoint itself
        arguments["quantization"] = "fp8"
    if replica.gpu_type == CPU:
        return {
            "num_gpus": 0,
            "num_cpus": replica.gpus,
            "max_num_seqs": max_num_seqs,
            "engine_args": arguments,
        }
    arguments["gpu_memory_utilization"] = memory_fraction(replica.gpu_fraction)
    if replica.tensor_parallel > 1:
        # The replica's own actor holds all its GPUs, so vLLM must not ask Ray for them a second time.
        arguments |= {"tensor_parallel_size": replica.tensor_parallel, "distributed_executor_backend": "mp"}
    settings: dict[str, Any] = {
        "num_gpus": replica.tensor_parallel if replica.gpu_fraction == 1 else replica.gpu_fraction,
        "num_cpus": num_cpus,
        "max_num_seqs": max_num_seqs,
        "engine_args": arguments,
    }
    if replica.tensor_parallel > 1:
        settings["placement_group_bundles"] = [{"GPU": replica.tensor_parallel, "CPU": num_cpus}]
    return settings


def check_settings(profile: Profile, gpu: GpuType, settings: dict[str, Any]) -> None:
    """Checks together what only makes sense together.

    Raises:
        ConfigurationError: names the settings that disagree, the numbers, and the mend.
    """
    replica, arguments = profile.replica, settings["engine_args"]
    _check_sequences(profile, settings["max_num_seqs"], arguments)
    if replica.gpu_type == CPU:
        return
    gpus = replica.tensor_parallel
    if arguments["gpu_memory_utilization"] > replica.gpu_fraction:
        raise _disagree(replica, "gpu_memory_utilization", arguments["gpu_memory_utilization"], replica.gpu_fraction)
    bundles = settings.get("placement_group_bundles", [{"GPU": settings["num_gpus"]}])
    for name, value in (("num_gpus", settings["num_gpus"]), ("the bundle's GPU", sum(b["GPU"] for b in bundles))):
        if abs(value - replica.gpus) > _EPSILON:
            raise _disagree(replica, name, value, replica.gpus)
    used_gib = profile.weights_gib / gpus + arguments["kv_cache_memory_bytes"] / GIB + CONTEXT_GIB
    room_gib = arguments["gpu_memory_utilization"] * gpu.memory_gib
    if used_gib > room_gib * 1.001:
        raise ConfigurationError(
            f"{replica}: weights, cache and context take {used_gib:.1f} GiB of each GPU and gpu_memory_utilization "
            f"{arguments['gpu_memory_utilization']:g} of {gpu.name} allows {room_gib:.1f}; profile it again "
            "(`apportion profile`) and plan again"
        )


def _check_sequences(profile: Profile, max_num_seqs: int, arguments: dict[str, Any]) -> None:
    """Sequences need as much of the cache each as the profile gives those that it was made with."""
    replica, step = profile.replica, arguments["max_num_batched_tokens"]
    if max_num_seqs > step:
        raise ConfigurationError(
            f"{replica}: max_num_seqs {max_num_seqs} is above max_num_batched_tokens {step}, and a step needs a token "
            "of every sequence; lower it"
        )
    # The cache is rounded down to whole MiB of each GPU.
    given_gib = (arguments["kv_cache_memory_bytes"] + MIB) * replica.tensor_parallel / GIB
    needed_gib = profile.kv_cache_gib * max_num_seqs / profile.max_num_seqs
    if needed_gib > given_gib:
        raise ConfigurationError(
            f"{replica}: max_num_seqs {max_num_seqs} needs {needed_gib:.2f} GiB of cache by its profile, and "
            f"kv_cache_memory_bytes gives {given_gib:.2f}; lower max_num_seqs, or plan again"
        )


def _disagree(replica: ReplicaType, name: str, value: float, share: float) -> ConfigurationError:
    return ConfigurationError(
        f"{replica}: {name} {value:g} does not agree with its share of {share:g} GPUs; plan again"
    )
