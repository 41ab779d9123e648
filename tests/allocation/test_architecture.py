"""Sizes of public models from their config.json, against what their authors and their files say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from apportion.allocation.architecture import read_architecture
from apportion.router.errors import ConfigurationError
from tests.allocation.architectures import (
    DEEPSEEK_V2_LITE,
    GEMMA2_2B,
    GEMMA3_1B,
    LLAMA31_8B,
    MIXTRAL_8X7B,
    QWEN25_05B,
    QWEN25_7B,
    QWEN25_72B,
    model_folder,
)
from tests.paths import ROOT

ZOO = ROOT / "deployments" / "zoo" / "models"


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (QWEN25_05B, 494_032_768),
        (QWEN25_7B, 7_615_616_512),
        (QWEN25_72B, 72_706_203_648),
        (LLAMA31_8B, 8_030_261_248),
        (MIXTRAL_8X7B, 46_702_792_704),
    ],
)
def test_parameters_are_counted_exactly(tmp_path: Path, config: dict[str, Any], parameters: int) -> None:
    assert read_architecture(model_folder(tmp_path, config)).parameters == parameters


@pytest.mark.parametrize("name", ["wren", "heron"])
def test_the_count_is_that_of_the_weights_on_disk(name: str) -> None:
    with safe_open(str(ZOO / name / "model.safetensors"), framework="np") as weights:
        size = sum(weights.get_tensor(key).size for key in weights.keys())  # noqa: SIM118 (no mapping)
    assert read_architecture(str(ZOO / name)).parameters == size


def test_a_token_of_llama_31_8b_takes_128_kib_of_cache(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, LLAMA31_8B))
    assert model.cached_tokens(1) * model.kv_heads * model.kv_values * 2 == 128 * 1024


def test_latent_attention_keeps_one_vector(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, DEEPSEEK_V2_LITE))
    assert (model.kv_heads, model.kv_values) == (1, 512 + 64)
    assert (model.experts, model.experts_per_token) == (64, 6)
    assert model.parameters == pytest.approx(15.7e9, rel=0.01)


def test_sliding_layers_stop_growing(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, GEMMA2_2B))
    assert (model.full_layers, model.window_layers, model.window) == (13, 13, 4096)
    assert model.cached_tokens(8192) == 13 * 8192 + 13 * 4096
    assert model.embedding_parameters == 0  # shared with the output layer, so read every step


def test_the_cache_of_windows_is_what_vllm_keeps(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, GEMMA3_1B))
    assert (model.full_layers, model.window_layers, model.window) == (4, 22, 512)
    assert model.held_tokens(100) == (4 + 24) * 100  # blocks of four layers each: six of windows, the last half empty
    assert model.held_tokens(32768) == 4 * 32768 + 24 * 512
    assert model.held_tokens(32768, in_flight=4096) == 4 * 32768 + 24 * (512 + 4096)
    assert model.held_tokens(2000, in_flight=4096) == 28 * 2000
    alike = replace(model, full_layers=13, window_layers=12)  # gpt-oss with a draft's layer
    assert alike.held_tokens(1000) == 13 * 1000 + 13 * 512
    plain = replace(model, full_layers=26, window_layers=0)
    assert plain.held_tokens(1000, in_flight=64) == plain.cached_tokens(1000) == 26 * 1000


def test_experts_are_told_apart(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, MIXTRAL_8X7B))
    assert model.expert_parameters == 32 * 8 * 3 * 4096 * 14336


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.16),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 8.0),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 8.0),
    ],
)
def test_a_quantised_checkpoint_says_its_bits(tmp_path: Path, settings: dict[str, Any], bits: float) -> None:
    source = model_folder(tmp_path, QWEN25_05B, quantization_config=settings)
    assert read_architecture(source).quantised_bits == bits


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (QWEN25_05B | {"model_type": "no-such-architecture"}, "no configuration can be read"),
        (QWEN25_05B | {"quantization_config": {"quant_method": "mystery"}}, "--measure"),
    ],
)
def test_what_cannot_be_computed_is_said(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_architecture(model_folder(tmp_path, config))
    assert str(tmp_path) in caught.value.message


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        read_architecture(str(tmp_path))
