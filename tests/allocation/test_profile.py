"""Computed profiles: what fits, how many sequences, how fast; against published numbers and arithmetic by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from apportion.allocation.architecture import read_architecture
from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.profile import Typical, compute_profiles
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import GIB, MEMORY_FRACTION, Deployed
from apportion.allocation.settings import replica_settings
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice
from tests.allocation.architectures import (
    GEMMA3_1B,
    LLAMA31_8B,
    MIXTRAL_8X7B,
    QWEN25_05B,
    QWEN25_7B,
    QWEN25_14B,
    QWEN25_15B,
    QWEN25_72B,
    model_folder,
)

A100 = GPU_TYPES["A100-80GB"]
# Qwen documentation, "Speed Benchmark" of Qwen2.5: tokens/s of one sequence, vLLM 0.6.3 on A100-80GB.
PUBLISHED = [
    (QWEN25_05B, 16.0, 1, 311.55),
    (QWEN25_15B, 16.0, 1, 183.33),
    (QWEN25_14B, 16.0, 1, 46.30),
    (QWEN25_14B, 8.0, 1, 70.40),
    (QWEN25_14B, 4.16, 1, 98.02),
    (QWEN25_72B, 16.0, 4, 31.37),
]


@pytest.mark.parametrize(("config", "bits", "gpus", "tokens_per_s"), PUBLISHED)
def test_one_sequence_is_as_fast_as_published(
    tmp_path: Path, config: dict[str, Any], bits: float, gpus: int, tokens_per_s: float
) -> None:
    model = read_architecture(model_folder(tmp_path, config))
    deployed = Deployed(model, A100, 1.0, gpus, bits, 2)
    assert 1 / deployed.decode_step_s(1, 1025) == pytest.approx(tokens_per_s, rel=0.17)


def test_reading_a_prompt_is_bound_by_arithmetic_and_decoding_by_bandwidth(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, LLAMA31_8B))
    fast_memory = Deployed(model, GPU_TYPES["H200"], 1.0, 1, 16.0, 2)
    slow_memory = Deployed(model, GPU_TYPES["H100"], 1.0, 1, 16.0, 2)
    assert fast_memory.prefill_s(4096) == pytest.approx(slow_memory.prefill_s(4096), rel=1e-6)
    assert fast_memory.decode_step_s(8, 1000) < 0.85 * slow_memory.decode_step_s(8, 1000)


@pytest.mark.parametrize(
    ("gpu", "tokens"), [("L4", 2048), ("A100-40GB", 2048), ("A100-80GB", 2048), ("H100", 8192), ("B200", 16384)]
)
def test_a_step_is_what_replicas_are_told(tmp_path: Path, gpu: str, tokens: int) -> None:
    model = read_architecture(model_folder(tmp_path, LLAMA31_8B))
    spec = ModelSpec("m", "m", ModelPrice(1, 1))
    settings = replica_settings(
        spec, ReplicaType("m", gpu, 1.0), GPU_TYPES[gpu], max_num_seqs=8, kv_cache_gib=1.0, num_cpus=1
    )
    deployed = Deployed(model, GPU_TYPES[gpu], 1.0, 1, 16.0, 2)
    assert settings["engine_args"]["max_num_batched_tokens"] == deployed.step_tokens == tokens


def test_few_tokens_touch_few_experts(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, MIXTRAL_8X7B))
    deployed = Deployed(model, A100, 1.0, 2, 16.0, 2)
    active_bytes = 2 * (model.parameters - model.embedding_parameters - 0.75 * model.expert_parameters)
    assert deployed._weights_read(1) == pytest.approx(active_bytes)
    assert deployed._weights_read(64) == pytest.approx(2 * (model.parameters - model.embedding_parameters), rel=1e-6)


def profiles(folder: Path, config: dict[str, Any], gpu: str, **changes: Any) -> tuple[Profile, ...]:
    model = ModelSpec("m", model_folder(folder, config), ModelPrice(1, 1), **changes)
    return compute_profiles([model], Cluster((Node("a", gpu, 8),), GPU_TYPES), Typical())


def by_size(found: tuple[Profile, ...]) -> dict[tuple[float, int], Profile]:
    return {(entry.replica.gpu_fraction, entry.replica.tensor_parallel): entry for entry in found}


def test_weights_cache_and_overhead_fill_the_share_and_no_more(tmp_path: Path) -> None:
    for entry in profiles(tmp_path, LLAMA31_8B, "H100", max_model_len=8192):
        if entry.fits:
            room_gib = entry.replica.gpus * MEMORY_FRACTION * GPU_TYPES["H100"].memory_gib
            assert entry.weights_gib == pytest.approx(8_030_261_248 * 2 / GIB)
            assert entry.weights_gib + entry.kv_cache_gib < room_gib
            assert entry.max_num_seqs * 8192 * 128 * 1024 / GIB <= entry.kv_cache_gib


def test_more_of_a_gpu_is_never_worse(tmp_path: Path) -> None:
    sizes = by_size(profiles(tmp_path, LLAMA31_8B, "H100", max_model_len=8192))
    shares = [sizes[share, 1] for share in (0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)]
    assert [entry.fits for entry in shares] == sorted(entry.fits for entry in shares)
    fitting = [entry for entry in shares if entry.fits]
    for less, more in itertools.pairwise(fitting):
        assert less.max_num_seqs <= more.max_num_seqs
        assert less.tokens_per_s < more.tokens_per_s
        assert less.first_token_s > more.first_token_s


def test_throughput_grows_and_speed_of_each_sequence_falls_with_concurrency(tmp_path: Path) -> None:
    curve = by_size(profiles(tmp_path, LLAMA31_8B, "H100", max_model_len=2048))[1.0, 1].decode_curve
    assert [n for n, _ in curve[:4]] == [1, 2, 4, 8]
    for (few, slow), (many, fast) in itertools.pairwise(curve):
        assert slow < fast
        assert slow / few > fast / many


def test_what_does_not_fit_says_why(tmp_path: Path) -> None:
    sizes = by_size(profiles(tmp_path, QWEN25_72B, "H100", max_model_len=8192))
    assert not sizes[1.0, 1].fits
    assert "135.4 GiB of weights" in sizes[1.0, 1].reason
    assert sizes[1.0, 4].fits
    odd = by_size(profiles(tmp_path, QWEN25_7B, "H100"))[1.0, 8]
    assert "28 attention heads" in odd.reason


def test_quantised_weights_need_less(tmp_path: Path) -> None:
    plain = by_size(profiles(tmp_path, QWEN25_14B, "L40S"))[1.0, 1]
    small = by_size(profiles(tmp_path, QWEN25_14B, "L40S", quantisation="awq"))[1.0, 1]
    assert small.weights_gib < 0.4 * plain.weights_gib
    assert small.max_num_seqs > plain.max_num_seqs


def test_room_for_shorter_sequences_admits_more(tmp_path: Path) -> None:
    model = ModelSpec("m", model_folder(tmp_path, LLAMA31_8B), ModelPrice(1, 1), max_model_len=32768)
    cluster = Cluster((Node("a", "H100", 1),), GPU_TYPES)
    whole = compute_profiles([model], cluster, Typical(), shares=[1.0])[0]
    short = compute_profiles([model], cluster, Typical(sequence_tokens=2048), shares=[1.0])[0]
    assert short.max_num_seqs > 4 * whole.max_num_seqs


def test_a_window_needs_room_for_the_steps_under_way(tmp_path: Path) -> None:
    """vLLM does not start on less: not even one sequence would fit while it reads a long prompt."""
    model = read_architecture(model_folder(tmp_path, GEMMA3_1B))
    deployed = Deployed(model, GPU_TYPES["H100"], 0.05, 1, 16.0, 2)
    bytes_a_token = 2 * 256 * 2
    assert deployed.cache_bytes(32768) == (4 * 32768 + 24 * 512) * bytes_a_token
    assert deployed.least_cache_bytes(32768) == (4 * 32768 + 24 * (512 + 2 * 8192)) * bytes_a_token
    spec = ModelSpec("m", model_folder(tmp_path, GEMMA3_1B), ModelPrice(1, 1), max_model_len=32768)
    cluster = Cluster((Node("a", "H100", 1),), GPU_TYPES)
    small, large = compute_profiles([spec], cluster, Typical(), shares=[0.056, 0.06], architectures={"m": model})
    assert deployed.cache_bytes(32768) / GIB < small.kv_cache_gib < deployed.least_cache_bytes(32768) / GIB
    assert (small.fits, large.fits) == (False, True)
    assert "32768 tokens need 0.51 GiB" in small.reason


def test_only_allowed_types_and_sizes_that_exist(tmp_path: Path) -> None:
    model = ModelSpec("m", model_folder(tmp_path, QWEN25_05B), ModelPrice(1, 1), gpu_types=("L4",))
    cluster = Cluster((Node("a", "L4", 2), Node("b", "H100", 8)), GPU_TYPES)
    found = compute_profiles([model], cluster, Typical(), shares=[0.5])
    assert [(p.replica.gpu_type, p.replica.gpus) for p in found] == [("L4", 0.5), ("L4", 2)]


def test_a_context_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'m'.*max_model_len 65536.*32768.*lower it"):
        profiles(tmp_path, QWEN25_05B, "L4", max_model_len=65536)


@pytest.mark.parametrize("wrong", [{"prompt_tokens": 0}, {"answer_tokens": 0}, {"sequence_tokens": 0}])
def test_a_typical_request_has_tokens(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Typical(**wrong)
