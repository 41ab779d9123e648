"""Computed profiles: what fits, how many sequences, how fast; against published numbers and arithmetic by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apportion.allocation.architecture import read_architecture
from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.numbers import Numbers
from apportion.allocation.profile import Typical, compute_profiles
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.roofline import GIB, MEMORY_FRACTION, SHARED_EFFICIENCY, Deployed
from apportion.allocation.settings import replica_settings
from apportion.router.errors import ConfigurationError
from apportion.router.prices import ModelPrice
from benchmarks.profiles.models import AWQ, FP8_BLOCKS, GPTQ, MODELOPT_FP4, MODELS
from tests.allocation.architectures import (
    GEMMA3_1B,
    LLAMA31_8B,
    MIXTRAL_8X7B,
    QWEN25_05B,
    QWEN25_7B,
    QWEN25_14B,
    QWEN25_72B,
    model_folder,
)

TYPICAL = Typical()
A100 = GPU_TYPES["A100-80GB"]
HALF = Numbers(dtype_bytes=2, cache_bytes=2)


def test_reading_a_prompt_is_bound_by_arithmetic_and_decoding_by_bandwidth(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, LLAMA31_8B))
    fast_memory = Deployed(model, GPU_TYPES["H200"], 1.0, 1, HALF)
    slow_memory = Deployed(model, GPU_TYPES["H100"], 1.0, 1, HALF)
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
    deployed = Deployed(model, GPU_TYPES[gpu], 1.0, 1, HALF)
    assert settings["engine_args"]["max_num_batched_tokens"] == deployed.step_tokens == tokens


def test_few_tokens_touch_few_experts(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, MIXTRAL_8X7B))
    deployed = Deployed(model, A100, 1.0, 1, HALF)
    active_bytes = 2 * (model.parameters - model.embedding_parameters - 0.75 * model.expert_parameters)
    assert deployed._weights_read(1) == pytest.approx(active_bytes, rel=1e-3)
    assert deployed._weights_read(64) == pytest.approx(2 * (model.parameters - model.embedding_parameters), rel=1e-3)


def profiles(
    folder: Path, config: dict[str, Any], gpu: str, typical: Typical = TYPICAL, **changes: Any
) -> tuple[Profile, ...]:
    model = ModelSpec("m", model_folder(folder, config), ModelPrice(1, 1), **changes)
    return compute_profiles([model], Cluster((Node("a", gpu, 8),), GPU_TYPES), typical)


def by_size(found: tuple[Profile, ...]) -> dict[tuple[float, int], Profile]:
    return {(entry.replica.gpu_fraction, entry.replica.tensor_parallel): entry for entry in found}


def test_weights_cache_and_overhead_fill_the_share_and_no_more(tmp_path: Path) -> None:
    for entry in profiles(tmp_path, LLAMA31_8B, "H100", Typical(sequence_tokens=8192), max_model_len=8192):
        if entry.fits:
            room_gib = entry.replica.gpus * MEMORY_FRACTION * GPU_TYPES["H100"].memory_gib
            assert entry.weights_gib == pytest.approx(8_030_261_248 * 2 / GIB, rel=1e-3)
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


def test_the_shares_of_a_gpu_never_make_more_than_the_whole(tmp_path: Path) -> None:
    for config in (QWEN25_05B, QWEN25_7B, LLAMA31_8B):
        sizes = by_size(profiles(tmp_path / config["model_type"] / str(config["hidden_size"]), config, "H100"))
        whole = sizes[1.0, 1]
        for (share, gpus), entry in sizes.items():
            if gpus == 1 and share < 1 and entry.fits:
                assert entry.tokens_per_s <= SHARED_EFFICIENCY * share * whole.tokens_per_s * (1 + 1e-9)
                assert entry.prefill_tokens_per_s == pytest.approx(
                    SHARED_EFFICIENCY * share * whole.prefill_tokens_per_s
                )


def test_what_does_not_fit_says_why(tmp_path: Path) -> None:
    sizes = by_size(profiles(tmp_path, QWEN25_72B, "H100", max_model_len=8192))
    assert not sizes[1.0, 1].fits
    assert "135.4 GiB of weights" in sizes[1.0, 1].reason
    assert sizes[1.0, 4].fits
    odd = by_size(profiles(tmp_path, QWEN25_7B, "H100"))[1.0, 8]
    assert "28 attention heads" in odd.reason


def test_quantised_weights_need_less(tmp_path: Path) -> None:
    plain = by_size(profiles(tmp_path, QWEN25_14B, "L40S"))[1.0, 1]
    small = by_size(profiles(tmp_path, QWEN25_14B | {"quantization_config": AWQ}, "L40S", quantisation="awq"))[1.0, 1]
    assert small.weights_gib < 0.4 * plain.weights_gib
    assert small.max_num_seqs > plain.max_num_seqs


def test_room_for_shorter_sequences_admits_more(tmp_path: Path) -> None:
    model = ModelSpec("m", model_folder(tmp_path, LLAMA31_8B), ModelPrice(1, 1), max_model_len=32768)
    cluster = Cluster((Node("a", "H100", 1),), GPU_TYPES)
    whole = compute_profiles([model], cluster, Typical(sequence_tokens=32768), shares=[1.0])[0]
    short = compute_profiles([model], cluster, Typical(sequence_tokens=2048), shares=[1.0])[0]
    assert short.max_num_seqs > 4 * whole.max_num_seqs


def test_a_window_needs_room_for_the_steps_under_way(tmp_path: Path) -> None:
    """vLLM does not start on less: not even one sequence would fit while it reads a long prompt."""
    model = read_architecture(model_folder(tmp_path, GEMMA3_1B))
    deployed = Deployed(model, GPU_TYPES["H100"], 0.05, 1, HALF)
    block = 32 * 4 * 2 * 256 * 2  # of four layers, so six for windows
    assert deployed.cache_bytes(32768) == (32768 / 32 + 6 * (512 / 32 + 1)) * block
    assert deployed.least_cache_bytes(32768) == (32768 / 32 + 6 * ((512 + 2 * 8192) / 32 + 1)) * block
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


def test_a_t4_has_no_bfloat16(tmp_path: Path) -> None:
    without = by_size(profiles(tmp_path, QWEN25_05B, "T4"))[1.0, 1]
    assert without.reason == "T4 has no bfloat16; set dtype: float16"
    assert by_size(profiles(tmp_path, QWEN25_05B, "T4", dtype="float16"))[1.0, 1].fits


@pytest.mark.parametrize("stated", ["int4", "int8", "awq", "gptq", "mxfp4"])
def test_a_checkpoint_is_not_quantised_by_saying_so(tmp_path: Path, stated: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"'m': quantisation {stated}, but .* is not quantised; .* set fp8"):
        profiles(tmp_path, QWEN25_05B, "L4", quantisation=stated)


def test_a_stated_quantisation_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = QWEN25_05B | {"quantization_config": GPTQ}
    assert by_size(profiles(tmp_path, checkpoint, "L4", quantisation="int4"))[1.0, 1].fits
    for stated in ("awq", "fp8", "int8"):
        with pytest.raises(ConfigurationError, match=r"is quantised as gptq; leave it out"):
            profiles(tmp_path, checkpoint, "L4", quantisation=stated)


@pytest.mark.parametrize(
    ("name", "gpu", "gpus", "says"),
    [
        ("Qwen3-4B FP8", "H100", 8, "intermediate 9728 among 8 GPUs cuts the quantiser's blocks of 128 x 128"),
        ("Qwen3-4B FP8", "H100", 2, ""),
        ("Qwen3-30B-A3B FP8", "H100", 4, ""),  # vLLM refines the blocks of experts
        ("Qwen2.5-72B", "H100", 4, ""),
        ("Qwen2.5-72B AWQ", "H100", 2, ""),
        ("gpt-oss-20b", "T4", 1, "T4 has no bfloat16"),
    ],
)
def test_what_a_quantiser_allows(tmp_path: Path, name: str, gpu: str, gpus: int, says: str) -> None:
    found = by_size(profiles(tmp_path, MODELS[name], gpu, max_model_len=4096))[1.0, gpus]
    assert found.reason.startswith(says), found.reason
    assert found.fits == (not says)


def test_groups_must_not_be_cut(tmp_path: Path) -> None:
    unpadded = MODELS["Qwen2.5-72B AWQ"] | {"intermediate_size": 29568}
    found = by_size(profiles(tmp_path, unpadded, "H100"))
    assert found[1.0, 1].fits
    assert found[1.0, 2].reason == "intermediate 29568 among 2 GPUs cuts the quantiser's groups of 128"


def test_a_format_needs_its_capability(tmp_path: Path) -> None:
    checkpoint = QWEN25_05B | {"quantization_config": {"quant_method": "mxfp4"}}
    found = by_size(profiles(tmp_path, checkpoint, "T4", dtype="float16"))[1.0, 1]
    assert found.reason == "mxfp4 needs compute capability 8, and T4 has 7.5; give a checkpoint in another format"
    foreign = QWEN25_05B | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    assert "does not load bitsandbytes" in by_size(profiles(tmp_path, foreign, "L4"))[1.0, 1].reason


def test_stated_sizes_replace_computed_ones(tmp_path: Path) -> None:
    odd = QWEN25_05B | {"quantization_config": {"quant_method": "mystery"}}
    with pytest.raises(ConfigurationError, match=r"quantised as mystery.*give `sizes:"):
        profiles(tmp_path, odd, "L4")
    plain = by_size(profiles(tmp_path, QWEN25_05B, "L4"))[1.0, 1]
    bits = by_size(profiles(tmp_path, odd, "L4", sizes={"bits_per_weight": 4}))[1.0, 1]
    assert bits.weights_gib == pytest.approx((357_826_560 * 4 / 8 + 136_206_208 * 2) / GIB, rel=1e-3)
    heavy = by_size(profiles(tmp_path, odd, "L4", sizes={"weights_gib": 3.0}))[1.0, 1]
    assert heavy.weights_gib == 3.0
    assert heavy.tokens_per_s < plain.tokens_per_s
    cache = by_size(profiles(tmp_path, QWEN25_05B, "L4", sizes={"cache_bytes_per_token": 1 << 20}))[1.0, 1]
    assert dict(cache.sequence_gib)[1024] == 1.0
    state = by_size(profiles(tmp_path, QWEN25_05B, "L4", sizes={"state_bytes_per_sequence": 1 << 30}))[1.0, 1]
    assert dict(state.sequence_gib)[1024] == pytest.approx(1 + dict(plain.sequence_gib)[1024])


def test_a_cache_in_fp8_holds_twice_as_much(tmp_path: Path) -> None:
    plain = by_size(profiles(tmp_path, LLAMA31_8B, "H100"))[1.0, 1]
    small = by_size(profiles(tmp_path, LLAMA31_8B, "H100", arguments={"kv_cache_dtype": "fp8_e4m3"}))[1.0, 1]
    assert dict(small.sequence_gib)[1024] == dict(plain.sequence_gib)[1024] / 2
    assert (
        "no FP8 cache"
        in by_size(profiles(tmp_path, LLAMA31_8B, "T4", dtype="float16", arguments={"kv_cache_dtype": "fp8"}))[
            1.0, 8
        ].reason
    )


def test_fp8_is_computed_in_fp8_where_a_gpu_can(tmp_path: Path) -> None:
    quantised = LLAMA31_8B | {"quantization_config": FP8_BLOCKS}
    reading = {
        gpu: by_size(profiles(tmp_path, quantised, gpu))[1.0, 1].prefill_tokens_per_s
        / by_size(profiles(tmp_path, LLAMA31_8B, gpu))[1.0, 1].prefill_tokens_per_s
        for gpu in ("H100", "A100-80GB")
    }
    assert reading["H100"] > 1.5
    assert reading["A100-80GB"] == pytest.approx(1.0, abs=0.1)


def test_nvfp4_is_computed_in_fp4_on_blackwell_only(tmp_path: Path) -> None:
    config = LLAMA31_8B | {"quantization_config": MODELOPT_FP4}
    speed = {gpu: by_size(profiles(tmp_path, config, gpu))[1.0, 1].prefill_tokens_per_s for gpu in ("H200", "B200")}
    assert speed["B200"] > 4 * speed["H200"]


def test_gpus_that_are_joined_by_pcie_pay_for_it(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, LLAMA31_8B))
    fast, slow = (
        Deployed(model, replace(GPU_TYPES["H100"], link_gb_per_s=link), 1.0, 4, HALF) for link in (450.0, 32.0)
    )
    assert slow.prefill_s(4096) > 2 * fast.prefill_s(4096)
    assert slow.decode_step_s(1, 512) > 1.2 * fast.decode_step_s(1, 512)


def test_a_tower_for_pictures_takes_memory_and_is_not_quantised(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, MODELS["Gemma-3-12B"] | {"quantization_config": GPTQ}))
    assert model.parameters + model.other_parameters == pytest.approx(12.187e9, rel=0.001)
    assert model.other_parameters == pytest.approx(0.421e9, rel=0.01)
    assert model.quantised_parameters < model.parameters - model.output_parameters
