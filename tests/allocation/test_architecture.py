"""Sizes of public models from their config.json, against what their authors and their files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from apportion.allocation.architecture import read_architecture
from apportion.allocation.cache import CacheLayers, Kept
from apportion.router.errors import ConfigurationError
from benchmarks.profiles.models import MODELOPT_FP4, MODELOPT_FP8, MODELS, W4A16
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
    assert model.kept.read_bytes(1, 1, 2, 2) == 128 * 1024


def test_latent_attention_keeps_one_vector(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, DEEPSEEK_V2_LITE))
    assert model.kept.attention == (CacheLayers(27, 1, 512 + 64),)
    assert (model.experts, model.experts_per_token) == (64, 6)
    assert model.parameters == pytest.approx(15.7e9, rel=0.01)


def test_sliding_layers_stop_growing(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, GEMMA2_2B))
    assert [(kind.layers, kind.window) for kind in model.kept.attention] == [(13, 0), (13, 4096)]
    assert model.kept.attended(8192) == 13 * 8192 + 13 * 4096
    assert model.embedding_parameters == 0  # shared with the output layer, so read every step


def test_the_cache_of_windows_is_what_vllm_keeps(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, GEMMA3_1B))
    assert [(kind.layers, kind.window) for kind in model.kept.attention] == [(4, 0), (22, 512)]
    page = 32 * 4 * 512 * 2  # blocks of four layers each: six of windows, the last half empty
    assert model.kept.sequence_bytes(1, 32768, 2, 2) == (1024 + 6 * 17) * page
    assert model.kept.sequence_bytes(1, 32768, 2, 2, in_flight=4096) == (1024 + 6 * 145) * page
    assert model.kept.sequence_bytes(1, 2000, 2, 2, in_flight=4096) == (63 + 6 * 64) * page
    alike = Kept((CacheLayers(13, 1, 512), CacheLayers(12, 1, 512, 512)))  # gpt-oss with a draft's layer
    assert alike.sequence_bytes(1, 1024, 2, 2) == (32 + 17) * 13 * 32 * 1024
    plain = Kept((CacheLayers(26, 1, 512),))
    assert plain.sequence_bytes(1, 1000, 2, 2, in_flight=64) == 26 * 1008 * 1024


def test_linear_layers_keep_a_state_of_constant_size(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, MODELS["Qwen3-Next-80B-A3B"] | {"num_experts": 4}))
    state = 2 * (32 * 128 * 128 + 3 * (2 * 16 + 32) * 128)
    assert model.kept.states[0].state_bytes(1, 2) == state
    assert model.kept.states[0].state_bytes(2, 2) == state / 2
    short, long = (model.kept.sequence_bytes(1, tokens, 2, 2) for tokens in (1, 4096))
    page = -(-state // (16 * 2048)) * 16 * 2048
    assert short == (3 * 2 + 1) * 12 * page
    assert long - short == (-(-4096 * 2048 // page) - 1) * 12 * page


def test_experts_are_told_apart(tmp_path: Path) -> None:
    model = read_architecture(model_folder(tmp_path, MIXTRAL_8X7B))
    assert model.expert_parameters == 32 * 8 * 3 * 4096 * 14336


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 8 + 24 / 128),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 8.02),
        (W4A16, 4.125),
        ({"quant_method": "mxfp4"}, 4.25),
        (MODELOPT_FP8, 8.0),
        (MODELOPT_FP4, 4.5),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4"}}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "bnb_4bit_use_double_quant": True}, 4.125 + 1 / 512),
    ],
)
def test_a_quantised_checkpoint_says_its_bits(tmp_path: Path, settings: dict[str, Any], bits: float) -> None:
    source = model_folder(tmp_path, QWEN25_05B, quantization_config=settings)
    found = read_architecture(source).quantisation
    assert found is not None
    assert found.bits == bits


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (QWEN25_05B | {"model_type": "no-such-architecture"}, "no configuration can be read"),
        (QWEN25_05B | {"layer_types": ["mystery"] * 24}, "no configuration can be read"),
        (QWEN25_05B | {"layer_types": ["hybrid_sliding"] * 24}, "layers of kind hybrid_sliding .* --measure"),
    ],
)
def test_what_cannot_be_computed_is_said(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_architecture(model_folder(tmp_path, config))
    assert str(tmp_path) in caught.value.message


def test_a_model_without_attention_keeps_states_alone(tmp_path: Path) -> None:
    config = {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 256, "state_size": 16}
    model = read_architecture(model_folder(tmp_path, config))
    assert (model.heads, model.kept.attention) == (0, ())
    state = 128 * (3 + 16) * 2
    assert model.kept.sequence_bytes(1, 5000, 2, 2) == 2 * 4 * state


def test_an_odd_configuration_is_no_traceback(tmp_path: Path) -> None:
    odd = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "num_attention_heads": 0}
    with pytest.raises(ConfigurationError, match=r"--measure|no configuration"):
        read_architecture(model_folder(tmp_path, odd))


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        read_architecture(str(tmp_path))
