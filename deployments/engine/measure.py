"""Measured profiles: starts the real engine of a model as a replica would run it, and sweeps concurrency.

Every engine has a process of its own, since vLLM reads its environment once and keeps its memory until the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from apportion.allocation.architecture import read_architecture
from apportion.allocation.gpus import CPU, GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.profile import DTYPE_BYTES, Typical, concurrencies
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import GIB
from apportion.allocation.settings import replica_settings
from apportion.deployments.config.models import ModelConfig, resolve_source
from apportion.deployments.engine.measurement import Measurement, Sweep
from apportion.deployments.engine.settings import environment, with_defaults
from apportion.router.errors import ConfigurationError
from apportion.router.torch_companions import hide_misfits

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """A replica to start; gpu: of its type; kv_cache_gib, weights_gib: over all its GPUs."""

    replica: ReplicaType
    gpu: GpuType
    max_num_seqs: int
    kv_cache_gib: float
    weights_gib: float


def gpu_trials(computed: Sequence[Profile], gpu: GpuType) -> list[Trial]:
    """What computed profiles say fits on this type."""
    return [
        Trial(profile.replica, gpu, profile.max_num_seqs, profile.kv_cache_gib, profile.weights_gib)
        for profile in computed
        if profile.fits and profile.replica.gpu_type == gpu.name
    ]


def cpu_trials(models: Sequence[ModelSpec], core: GpuType, max_num_seqs: int, kv_cache_gib: float) -> list[Trial]:
    """One core for each model that may run on the CPU."""
    trials = []
    for model in models:
        if model.gpu_types is None or CPU in model.gpu_types:
            parameters = read_architecture(resolve_source(model.source)).parameters
            weights_gib = parameters * DTYPE_BYTES[model.dtype] / GIB
            trials.append(Trial(ReplicaType(model.name, CPU, 1.0), core, max_num_seqs, kv_cache_gib, weights_gib))
    return trials


def measure_profiles(
    models: Sequence[ModelSpec], trials: Sequence[Trial], cpu_shares: Sequence[float], typical: Typical, done: Progress
) -> tuple[Profile, ...]:
    """A measured profile for each trial, and for a trial on the CPU one for each share of a core.

    Speeds are measured with the GPU to itself, times the share: under full load neighbours take the rest. On the CPU
    they are those of a core that does nothing else.

    Raises:
        ConfigurationError: there is nothing to try.
    """
    if not trials:
        raise ConfigurationError("nothing to measure: no model may run on this type and fits; see computed profiles")
    by_name = {model.name: model for model in models}
    profiles: list[Profile] = []
    for number, trial in enumerate(trials):
        done("measuring", number, len(trials))
        measured = _try(by_name[trial.replica.model], trial, typical)
        shares = cpu_shares if trial.replica.gpu_type == CPU else (trial.replica.gpu_fraction,)
        profiles += [_profile(trial, measured, share, typical) for share in shares]
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
    curve = tuple((sequences, speed * share) for sequences, speed in measured.decode_curve)
    alone = f"{typical.prompt_tokens} + {typical.answer_tokens} tokens, alone"
    return Profile(
        replica=replica,
        fits=True,
        max_num_seqs=trial.max_num_seqs,
        tokens_per_s=curve[-1][1],
        prefill_tokens_per_s=measured.prefill_tokens_per_s * share,
        first_token_s=measured.first_token_s / share,
        weights_gib=trial.weights_gib,
        kv_cache_gib=trial.kv_cache_gib,
        source="measured",
        reason=alone if share == 1 else f"{alone}, speed times {share:g}",
        decode_curve=curve,
        prompt_step_s=measured.prompt_step_s / share,
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
