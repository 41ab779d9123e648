"""Measured profiles, from real engines on the CPU."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from apportion.allocation.gpus import CPU, GPU_TYPES, GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.profile import Typical
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import speed_share
from apportion.deployments.engine.measure import blind_trials, cpu_trials, engine_config, gpu_trials, measure_profiles
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice
from tests.allocation.plans import HUGE, MIDDLE, plan_of, profile
from tests.paths import ROOT

ZOO = ROOT / "deployments" / "zoo" / "models"
WREN = ModelSpec("wren", str(ZOO / "wren"), ModelPrice(0.23, 0.23), max_model_len=256, dtype="float32")

CORE = GpuType(CPU, 4, 10, 0.5)


def quiet(stage: str, done: int, total: int) -> None:
    assert (stage, done <= total) == ("measuring", True)


def test_what_fits_by_computation_is_tried() -> None:
    tight = Profile(MIDDLE, False, 0, 0, 0, 0, 90.0, 0.0, "computed", "too large")
    (trial,) = gpu_trials([tight, profile(HUGE, 136.0, 140.0)], GPU_TYPES["H100"])
    assert (trial.replica, trial.max_num_seqs, trial.kv_cache_gib) == (HUGE, 32, 140.0)
    assert gpu_trials([profile(HUGE, 136.0, 140.0)], GPU_TYPES["L4"]) == []


def test_the_engine_that_is_measured_is_the_one_that_is_rendered() -> None:
    spec = plan_of().models[3]
    config = engine_config(spec, gpu_trials([profile(HUGE, 136.0, 140.0)], GPU_TYPES["H100"])[0])
    assert config.num_gpus == 4
    assert config.engine_args["tensor_parallel_size"] == 4
    assert config.engine_args["kv_cache_memory_bytes"] == 35 << 30
    assert config.engine_args["max_num_batched_tokens"] == 8192
    on_core = engine_config(WREN, cpu_trials([WREN], CORE, 4, 0.0625)[0])
    assert on_core.num_gpus == 0
    assert on_core.engine_args["enforce_eager"] is True


def test_only_models_that_may_run_on_the_cpu_are_tried_there() -> None:
    other = ModelSpec("other", str(ZOO / "lark"), ModelPrice(1, 1), gpu_types=("L4",))
    (trial,) = cpu_trials([WREN, other], CORE, 4, 0.0625)
    assert trial.replica == ReplicaType("wren", CPU, 1.0)
    assert trial.weights_gib == pytest.approx(230_000 * 4 / 2**30, rel=0.1)


def test_what_cannot_be_computed_is_tried_at_every_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-architecture"}')
    odd = ModelSpec("odd", str(tmp_path), ModelPrice(1, 1))
    types = [ReplicaType("odd", "H100", 0.5), ReplicaType("odd", "H100", 1.0, 2)]
    half, pair = blind_trials([odd], types, GPU_TYPES["H100"], 8, 4.0)
    assert (half.kv_cache_gib, pair.kv_cache_gib) == (4.0, 8.0)
    assert half.weights_gib == pytest.approx(0.46 * 79.6 - 0.7 - 4.0)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * (1 << 20))
    assert blind_trials([odd], types, GPU_TYPES["H100"], 8, 4.0)[1].weights_gib == 1 / 1024
    stated = replace(odd, sizes={"weights_gib": 3.0})
    assert blind_trials([stated], types, GPU_TYPES["H100"], 8, 4.0)[0].weights_gib == 3.0


def test_nothing_to_try_is_said() -> None:
    with pytest.raises(ConfigurationError, match="nothing to measure"):
        measure_profiles([WREN], [], [1.0], Typical(), quiet)


@pytest.mark.slow
def test_a_real_engine_is_measured_and_one_that_cannot_start_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((ZOO / "wren" / "config.json").read_text())
    hollow = ModelSpec("hollow", str(tmp_path), ModelPrice(1, 1), max_model_len=256, dtype="float32")
    models = [WREN, hollow]
    typical = Typical(prompt_tokens=16, answer_tokens=24)
    trials = cpu_trials(models, CORE, 4, 0.0625)
    before = dict(os.environ)  # torch, which counted the parameters, has put its own variables there
    found = measure_profiles(models, trials, [0.5, 1.0], typical, quiet)
    assert dict(os.environ) == before
    half, whole, broken, _ = found
    assert [n for n, _ in whole.decode_curve] == [1, 2, 4], whole.reason
    assert all(tokens_per_s > 0 for _, tokens_per_s in whole.decode_curve)
    assert whole.tokens_per_s == whole.decode_curve[-1][1]
    assert half.tokens_per_s == pytest.approx(speed_share(0.5) * whole.tokens_per_s)
    assert half.source == whole.source == "measured"
    assert whole.first_token_s > 0
    assert whole.prefill_tokens_per_s > 0
    assert not broken.fits
    assert "did not start" in broken.reason
