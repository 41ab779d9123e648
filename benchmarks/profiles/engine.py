"""The installed vLLM's own arithmetic: it builds a model without memory for it, as one of so many GPUs, and says what
its weights and its cache take. No engine is started and no GPU is needed.

Imported in processes of its own only, since it imports vLLM and makes a process group of ranks that do not exist.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import torch
import vllm.distributed.parallel_state as ranks
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.config.vllm import get_layers_from_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.layers.fused_moe.oracle.mxfp4 import Mxfp4MoeBackend
from vllm.model_executor.layers.quantization import mxfp4
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms import current_platform
from vllm.platforms.interface import Platform
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.core.kv_cache_utils import _max_memory_usage_bytes_from_groups, get_kv_cache_groups

LAYOUT = "LBNHC"
# Without torchvision vLLM cannot import its models for pictures; what they keep is what their text models keep.
TEXT_MODELS = {
    "gemma3_text": "Gemma3ForCausalLM",
    "llama4_text": "Llama4ForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2_5_vl_text": "Qwen2ForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
}
# Its kernels for FP8 on processors want AMX, which says nothing about sizes.
torch.cpu._is_amx_tile_supported = lambda: True
# With this one it would keep states in 32 bits, as it does on processors alone.
torch.cpu._is_avx512_bf16_supported = lambda: False

# A GPU's kernels for MXFP4 fill experts up, those for processors do not.
_round_up = mxfp4.mxfp4_round_up_hidden_size_and_intermediate_size
mxfp4.mxfp4_round_up_hidden_size_and_intermediate_size = lambda backend, hidden, width, activation=None: _round_up(
    Mxfp4MoeBackend.MARLIN, hidden, width, activation
)


def pretend(gpus: int) -> None:
    """This process is the first of so many that compute together; the others do not exist, so nothing can be run."""
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(VllmConfig()):
        ranks.init_distributed_environment(1, 0, f"file://{folder}/store", 0, backend="gloo")
        ranks.initialize_model_parallel(1, 1)
    ranks.get_tp_group().world_size = gpus


def sizes(config: dict[str, Any], gpus: int, max_model_len: int, step_tokens: int) -> dict[str, Any]:
    """Bytes on one of the GPUs: the weights, and the least cache for one sequence of the whole length."""
    if "text_config" in config:
        kind = config["text_config"]["model_type"]
        config = {**config["text_config"], "architectures": [TEXT_MODELS[kind]]}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        settings = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            enforce_eager=True,
            dtype="bfloat16",
            max_model_len=max_model_len,
            max_num_batched_tokens=step_tokens,
            max_num_seqs=min(256, step_tokens),
            block_size=16,
        ).create_engine_config()
        settings.parallel_config.tensor_parallel_size = gpus
        if settings.model_config.is_hybrid:
            Platform._align_hybrid_block_size.__func__(type(current_platform), settings, AttentionBackend)
        settings.cache_config.kv_cache_layout = LAYOUT
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with set_current_vllm_config(settings), torch.device("meta"):
                model = initialize_model(settings)
        finally:
            torch.set_default_dtype(before)
    specs = {
        name: layer.get_kv_cache_spec(settings)
        for name, layer in get_layers_from_vllm_config(settings, AttentionLayerBase).items()
    }
    specs = {name: spec for name, spec in specs.items() if spec is not None}
    groups = get_kv_cache_groups(settings, specs)
    weights = {id(one): one.numel() * one.element_size() for one in model.parameters()}
    return {
        "weight_bytes": sum(weights.values()),
        "cache_bytes": _max_memory_usage_bytes_from_groups(settings, groups),
        "in_flight": settings.max_in_flight_tokens,
    }


def main() -> None:
    """Reads `{name: config}` from the standard input; arguments: GPUs, longest context, tokens of a step."""
    gpus, longest, step = map(int, sys.argv[1:4])
    pretend(gpus)
    for name, config in json.load(sys.stdin).items():
        text = config.get("text_config", config)
        try:
            found = sizes(config, gpus, min(longest, text.get("max_position_embeddings", longest)), step)
        except Exception as error:  # whatever vLLM says is the answer
            found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps({"name": name, **found}), flush=True)


if __name__ == "__main__":
    main()
