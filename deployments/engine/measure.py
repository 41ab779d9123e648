"""Measured profiles: starts the real engine of a model as a replica would run it, and sweeps concurrency.

Every engine has a process of its own, since vLLM reads its environment once and keeps its memory until the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from apportion.allocation.architecture import read_architecture
from apportion.allocation.gpus import CPU, GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.numbers import DTYPE_BYTES
from apportion.allocation.origin import installed_engine, origin_of
from apportion.allocation.profile import Typical, concurrencies
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import CONTEXT_GIB, GIB, memory_fraction, speed_share
from apportion.allocation.settings import replica_settings
from apportion.deployments.config.models import ModelConfig, resolve_source
from apportion.deployments.engine.measurement import Measurement, Sweep
from apportion.deployments.engine.settings import environment, with_defaults
from apportion.router.errors import ConfigurationError
from apportion.router.torch_companions import hide_misfits

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """A replica to start; gpu: of its type; kv_cache_gib, weights_gib, sequence_gib: over all its GPUs."""

    replica: ReplicaType
    gpu: GpuType
    max_num_seqs: int
    kv_cache_gib: float
    weights_gib: float
    sequence_gib: tuple[tuple[int, float], ...] = ()


def gpu_trials(computed: Sequence[Profile], gpu: GpuType) -> list[Trial]:
    """What computed profiles say fits on this type."""
    return [
        Trial(
            profile.replica,
            gpu,
            profile.max_num_seqs,
            profile.kv_cache_gib,
            profile.weights_gib,
            profile.sequence_gib,
        )
        for profile in computed
        if profile.fits and profile.replica.gpu_type == gpu.name
    ]


def cpu_trials(models: Sequence[ModelSpec], core: GpuType, max_num_seqs: int, kv_cache_gib: float) -> list[Trial]:
    """One core for each model that may run on the CPU."""
    trials = []
    for model in models:
        if model.gpu_types is None or CPU in model.gpu_types:
            weights_gib = _weights_gib(model, core.memory_gib)
            trials.append(Trial(ReplicaType(model.name, CPU, 1.0), core, max_num_seqs, kv_cache_gib, weights_gib))
    return trials


def blind_trials(
    models: Sequence[ModelSpec], replicas: Sequence[ReplicaType], gpu: GpuType, max_num_seqs: int, kv_cache_gib: float
) -> list[Trial]:
    """For models that cannot be computed: every replica type, with so much cache on each GPU.

    Their weights are what the description or the checkpoint's files say, else all that the share leaves.
    """
    by_name = {model.name: model for model in models}
    trials = []
    for replica in replicas:
        left_gib = memory_fraction(replica.gpu_fraction) * gpu.memory_gib - CONTEXT_GIB - kv_cache_gib
        weights_gib = _weights_gib(by_name[replica.model], max(left_gib, 0.0) * replica.tensor_parallel)
        cache_gib = kv_cache_gib * replica.tensor_parallel
        trials.append(Trial(replica, gpu, max_num_seqs, cache_gib, weights_gib))
    return trials


def _weights_gib(model: ModelSpec, otherwise_gib: float) -> float:
    """As described, as counted, or as the files weigh; `otherwise_gib` where none of these is known."""
    if "weights_gib" in model.sizes:
        return model.sizes["weights_gib"]
    source = resolve_source(model.source)
    try:
        return read_architecture(source, model.revision).parameters * DTYPE_BYTES[model.dtype] / GIB
    except ConfigurationError:
        return sum(file.stat().st_size for file in Path(source).glob("*.safetensors")) / GIB or otherwise_gib


def measure_profiles(
    models: Sequence[ModelSpec],
    trials: Sequence[Trial],
    cpu_shares: Sequence[float],
    typical: Typical,
    done: Progress,
    hashes: Mapping[str, str] | None = None,
) -> tuple[Profile, ...]:
    """A measured profile for each trial, and for a trial on the CPU one for each share of a core.

    Speeds are measured with the GPU (or the core) to itself, times what an engine gets of it while neighbours take the
    rest (`speed_share`).

    Args:
        hashes: of the models' `config.json`, by model.

    Raises:
        ConfigurationError: there is nothing to try.
    """
    if not trials:
        raise ConfigurationError("nothing to measure: no model may run on this type and fits; see computed profiles")
    by_name = {model.name: model for model in models}
    profiles: list[Profile] = []
    for number, trial in enumerate(trials):
        done("measuring", number, len(trials))
        model = by_name[trial.replica.model]
        origin = origin_of(model, (hashes or {}).get(model.name, ""), installed_engine())
        measured = _try(model, trial, typical)
        shares = cpu_shares if trial.replica.gpu_type == CPU else (trial.replica.gpu_fraction,)
        profiles += [replace(_profile(trial, measured, share, typical), origin=origin) for share in shares]
    done("measuring", len(trials), len(trials))
    return tuple(profiles)


def _try(model: ModelSpec, trial: Trial, typical: Typical) -> Measurement | str:
    """The measurement, or why the engine did not run."""
    config = engine_config(model, trial)
    answer_tokens = min(typical.answer_tokens, model.max_model_len // 2)
    prompt_tokens = min(typical.prompt_tokens, model.max_model_len - answer_tokens)
    sequences = concurrencies(trial.max_num_seqs)
    with engine_environment(config), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_sweep, config, prompt_tokens, answer_tokens, sequences).result()
        except Exception as error:  # whatever an engine dies of is the answer
            return f"did not start: {error!r:.300}"


def engine_config(model: ModelSpec, trial: Trial) -> ModelConfig:
    """The model as a replica of the rendered configuration runs it."""
    settings = replica_settings(
        model, trial.replica, trial.gpu, max_num_seqs=trial.max_num_seqs, kv_cache_gib=trial.kv_cache_gib, num_cpus=1
    )
    settings.pop("placement_group_bundles", None)
    return with_defaults(
        ModelConfig(
            name=model.name,
            source=model.source,
            input_usd_per_million=model.price.input_usd_per_million,
            output_usd_per_million=model.price.output_usd_per_million,
            max_model_len=model.max_model_len,
            **settings,
        )
    )


def _sweep(config: ModelConfig, prompt_tokens: int, answer_tokens: int, sequences: list[int]) -> Measurement:
    """Runs in the measuring process."""
    if not config.num_gpus:
        keep_to_core(0)
    hide_misfits()
    from apportion.deployments.engine.sweep import measure_engine

    sweep = Sweep(prompt_tokens, answer_tokens, tuple(sequences), by_cpu_time=not config.num_gpus)
    measured: Measurement = measure_engine(config, sweep)
    return measured


def keep_to_core(number: int) -> None:
    """This process and those that it starts run on one core, the unit of the type `cpu`; to be called before vLLM
    is imported, since threads that run already stay where they are.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def _profile(trial: Trial, measured: Measurement | str, share: float, typical: Typical) -> Profile:
    replica = ReplicaType(trial.replica.model, trial.replica.gpu_type, share, trial.replica.tensor_parallel)
    if isinstance(measured, str):
        return Profile(replica, False, 0, 0.0, 0.0, 0.0, trial.weights_gib, trial.kv_cache_gib, "measured", measured)
    part = speed_share(share)
    curve = tuple((sequences, speed * part) for sequences, speed in measured.decode_curve)
    alone = f"{typical.prompt_tokens} + {typical.answer_tokens} tokens, alone"
    return Profile(
        replica=replica,
        fits=True,
        max_num_seqs=trial.max_num_seqs,
        tokens_per_s=curve[-1][1],
        prefill_tokens_per_s=measured.prefill_tokens_per_s * part,
        first_token_s=measured.first_token_s / part,
        weights_gib=trial.weights_gib,
        kv_cache_gib=trial.kv_cache_gib,
        source="measured",
        reason=alone if share == 1 else f"{alone}, speed times {part:g}",
        decode_curve=curve,
        prompt_step_s=measured.prompt_step_s / part,
        sequence_gib=trial.sequence_gib,
    )


@contextmanager
def engine_environment(config: ModelConfig) -> Iterator[None]:
    """Processes that are started meanwhile inherit what the engine needs; the user's own settings come first."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in environment(config).items() if name not in before})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
