"""What a model's `config.json` says about its size: parameters, and what a token leaves in the cache.

Parameters are counted on the model that transformers builds from the configuration, without memory for it (torch's meta
device), so every architecture that transformers knows is counted exactly. Nothing is downloaded but the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from apportion.router.errors import ConfigurationError
from apportion.router.torch_companions import hide_misfits

# Bits a weight by the quantiser's name; group-wise 4-bit formats add a 16-bit scale and a 4-bit zero to 128 weights.
QUANTISED_BITS = {"fp8": 8.0, "int8": 8.0, "int4": 4.16, "awq": 4.16, "gptq": 4.16}

_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


@dataclass(frozen=True)
class Architecture:
    """Sizes of one model.

    Attributes:
        parameters: all of them, shared ones once.
        embedding_parameters: of these, the input table: read a row a token. 0 where the output layer shares it.
        output_parameters: of these, the output layer (or the shared table); quantisers leave both alone.
        expert_parameters: of these, in routed experts.
        experts, experts_per_token: 0 without routed experts.
        hidden, intermediate, heads, head_size, vocabulary: as in `config.json`.
        kv_heads: heads that the cache keeps; 1 where keys and values are compressed to one latent vector.
        kv_values: numbers that a token adds to the cache of a layer and one KV head.
        full_layers, window_layers: layers whose cache grows with the sequence, or up to `window` tokens.
        quantised_bits: bits of a weight that the checkpoint itself is quantised to; None: it is not.
    """

    parameters: int
    embedding_parameters: int
    output_parameters: int
    expert_parameters: int
    experts: int
    experts_per_token: int
    hidden: int
    intermediate: int
    heads: int
    head_size: int
    kv_heads: int
    kv_values: int
    full_layers: int
    window_layers: int
    window: int
    vocabulary: int
    max_positions: int
    quantised_bits: float | None = None

    @property
    def layers(self) -> int:
        return self.full_layers + self.window_layers

    def cached_tokens(self, tokens: int) -> int:
        """Token-layers of the cache that a sequence of so many tokens looks back at."""
        return self.full_layers * tokens + self.window_layers * min(tokens, self.window)

    def held_tokens(self, tokens: int, in_flight: int = 0) -> int:
        """Token-layers of the cache that vLLM keeps for a sequence of so many tokens.

        Its blocks belong to as many layers each, of one kind: where the layers of a kind are no multiple of that, the
        rest of a block is idle. A window's blocks stay until the steps that left it behind are done. (0.32:
        vllm/v1/core/kv_cache_utils.py and kv_cache_interface.py.)

        Args:
            in_flight: tokens of the sequence in steps under way.
        """
        kinds = [layers for layers in (self.full_layers, self.window_layers) if layers]
        together = max(kinds) if max(kinds) < 1.5 * min(kinds) else min(kinds)
        full, windowed = (ceil(layers / together) * together for layers in (self.full_layers, self.window_layers))
        return full * tokens + windowed * min(tokens, self.window + in_flight)


def read_architecture(source: str) -> Architecture:
    """Reads `config.json` of a folder or of a hub id.

    Raises:
        ConfigurationError: there is none, or it describes nothing that can be computed; says what to do.
    """
    hide_misfits()
    from transformers import AutoConfig

    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ConfigurationError(f"{source} has no config.json; give the folder that the model was saved to")
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"{source}: no configuration can be read ({str(error).splitlines()[0]}); give a folder with config.json, "
            "or a hub id while the hub can be reached"
        ) from error
    return architecture_of(config, source)


def architecture_of(config: Any, source: str) -> Architecture:
    """The sizes behind a transformers configuration. Raises ConfigurationError, naming `source` and the mend."""
    text = config.get_text_config()
    full, windowed, window = _layers(text, source)
    kv_heads, kv_values = _cache_of_a_token(text)
    counts = _count(text, source)
    experts = int(_first(text, "num_local_experts", "num_experts", "n_routed_experts") or 0)
    return Architecture(
        **counts,
        experts=experts if counts["expert_parameters"] else 0,
        experts_per_token=int(_first(text, "num_experts_per_tok", "top_k_experts") or 0) if experts else 0,
        hidden=text.hidden_size,
        intermediate=int(_first(text, "intermediate_size", "ffn_dim") or 4 * text.hidden_size),
        heads=text.num_attention_heads,
        head_size=_head_size(text),
        kv_heads=kv_heads,
        kv_values=kv_values,
        full_layers=full,
        window_layers=windowed,
        window=window,
        vocabulary=text.vocab_size,
        max_positions=int(_first(text, "max_position_embeddings") or 1 << 30),
        quantised_bits=_quantised_bits(config, source),
    )


def _layers(text: Any, source: str) -> tuple[int, int, int]:
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    unknown = sorted(set(kinds) - _KNOWN_LAYERS)
    if unknown:
        raise ConfigurationError(
            f"{source}: layers of kind {', '.join(unknown)} keep no cache that can be computed here; measure this "
            "model with --measure"
        )
    full = sum(kind == "full_attention" for kind in kinds)
    window = int(_first(text, "sliding_window", "attention_chunk_size") or 0)
    return full, len(kinds) - full, window


def _cache_of_a_token(text: Any) -> tuple[int, int]:
    latent = getattr(text, "kv_lora_rank", None)
    if latent:  # multi-head latent attention keeps one compressed vector and one rotary key
        return 1, int(latent) + int(text.qk_rope_head_dim)
    heads = int(_first(text, "num_key_value_heads") or text.num_attention_heads)
    return heads, 2 * _head_size(text)


def _head_size(text: Any) -> int:
    return int(_first(text, "head_dim") or text.hidden_size // text.num_attention_heads)


def _count(text: Any, source: str) -> dict[str, int]:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text)
    except (ValueError, KeyError, ImportError) as error:
        raise ConfigurationError(
            f"{source}: transformers cannot build a text model of it ({str(error).splitlines()[0]}); measure this "
            "model with --measure"
        ) from error
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    table = model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings()
    shared = head is None or head.weight is model.get_input_embeddings().weight
    return {
        "parameters": sum(sizes.values()),
        "embedding_parameters": 0 if shared else table,
        "output_parameters": table if shared else head.weight.numel(),
        "expert_parameters": sum(size for name, size in sizes.items() if ".experts." in name),
    }


def _quantised_bits(config: Any, source: str) -> float | None:
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(settings.get("quant_method", ""))
    bits = settings.get("bits")
    if bits is not None:
        return float(bits) + (QUANTISED_BITS["int4"] - 4 if int(bits) <= 4 else 0)
    if method in QUANTISED_BITS:
        return QUANTISED_BITS[method]
    groups = settings.get("config_groups") or {}  # compressed-tensors
    found = [group["weights"]["num_bits"] for group in groups.values() if (group.get("weights") or {}).get("num_bits")]
    if not found:
        raise ConfigurationError(
            f"{source}: quantised as {method or 'unknown'}, whose bits are not known here; measure this model with "
            "--measure"
        )
    return float(max(found))


def _first(text: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(text, name, None)) is not None), None)
