"""GPU needs of the data sets' models. Most were never run for this on a known machine, so the needs are invented.

Open models get the published sizes of their family; models behind an API get a size that is a mere assumption, and the
models of any other table sizes in the order of what they cost. All are written as `config.json` files of Llama's or
Mixtral's form, so that profiles are computed as for any other model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from apportion.allocation.models import ModelSpec
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice

# hidden, layers, heads, KV heads, intermediate, vocabulary, experts
SIZES: dict[str, tuple[int, int, int, int, int, int, int]] = {
    "4B": (3072, 32, 32, 32, 8192, 32064, 0),
    "7B": (4096, 32, 32, 8, 14336, 32000, 0),
    "8B": (4096, 32, 32, 8, 14336, 128256, 0),
    "13B": (5120, 40, 40, 40, 13824, 32000, 0),
    "34B": (7168, 60, 56, 8, 20480, 64000, 0),
    "47B-MoE": (4096, 32, 32, 8, 14336, 32000, 8),
    "70B": (8192, 80, 64, 8, 28672, 128256, 0),
    "110B": (8192, 80, 64, 8, 49152, 152064, 0),
}

# Ten open models of different size and price. The large ones' KV heads are those of Llama 3 throughout.
MMLU_PRO = {
    "Phi-3-mini-4k-instruct": "4B",
    "mathstral-7B": "7B",
    "gemma-7b": "7B",
    "Meta-Llama-3_1-8B-Instruct": "8B",
    "Yi-34B": "34B",
    "c4ai-command-r-v01": "34B",
    "Mixtral-8x7B-Instruct-v0.1": "47B-MoE",
    "Meta-Llama-3_1-70B-Instruct": "70B",
    "Qwen1.5-72B-Chat": "70B",
    "Qwen1.5-110B": "110B",
}

# Sizes of claude-* and gpt-* are assumptions: their makers publish none.
ROUTERBENCH = {
    "mistralai/mistral-7b-chat": "7B",
    "WizardLM/WizardLM-13B-V1.2": "13B",
    "gpt-3.5-turbo-1106": "34B",
    "zero-one-ai/Yi-34B-Chat": "34B",
    "meta/code-llama-instruct-34b-chat": "34B",
    "mistralai/mixtral-8x7b-chat": "47B-MoE",
    "claude-instant-v1": "47B-MoE",
    "meta/llama-2-70b-chat": "70B",
    "claude-v1": "70B",
    "claude-v2": "70B",
    "gpt-4-1106-preview": "110B",
}

DATA_SETS = {"mmlu_pro_cot": MMLU_PRO, "routerbench_part": ROUTERBENCH}
# Models that nobody but their makers serves, bought by the token: all of the data sets' that are whole.
CLOSED = {
    "mmlu_pro_cot": ("gemini-1.5-flash-002", "gemini-1.5-pro-002", "jamba-1.5-large"),
    "routerbench_part": ("gpt-3.5-turbo-1106", "claude-instant-v1", "claude-v1", "claude-v2", "gpt-4-1106-preview"),
}
CONTEXT_TOKENS = 4096


def needs_of(name: str, table: OutcomesTable) -> dict[str, str]:
    """The size of every model that is planned for: as stated for the data set of that name, else by rank of cost."""
    if name in DATA_SETS:
        return DATA_SETS[name]
    sizes = list(SIZES)
    cheapest_first = np.argsort(table.cost_usd.mean(axis=0), kind="stable").tolist()
    return {table.models[j]: sizes[rank * len(sizes) // len(table.models)] for rank, j in enumerate(cheapest_first)}


def bought_of(name: str, table: OutcomesTable) -> tuple[str, ...]:
    """The models that are bought: the closed ones of the data set of that name, else the two dearest."""
    if name in CLOSED:
        return CLOSED[name]
    dearest_last = np.argsort(table.cost_usd.mean(axis=0), kind="stable").tolist()
    return tuple(table.models[j] for j in dearest_last[-2:])


def specs(needs: dict[str, str], prices: dict[str, ModelPrice], folder: Path) -> tuple[ModelSpec, ...]:
    """The models with their configurations written under `folder`."""
    for size in set(needs.values()):
        (folder / size).mkdir(parents=True, exist_ok=True)
        (folder / size / "config.json").write_text(json.dumps(_config(size)))
    return tuple(
        ModelSpec(name, str(folder / size), prices[name], max_model_len=CONTEXT_TOKENS) for name, size in needs.items()
    )


def _config(size: str) -> dict[str, Any]:
    hidden, layers, heads, kv_heads, intermediate, vocabulary, experts = SIZES[size]
    config: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM" if experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if experts else "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
    }
    if experts:
        config |= {"num_local_experts": experts, "num_experts_per_tok": 2}
    return config
