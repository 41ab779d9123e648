"""What a model's `config.json` says about its size: parameters, and what a sequence leaves in the cache.

Parameters are counted on the model that transformers builds from the configuration, without memory for it (torch's meta
device), so every architecture that transformers knows is counted exactly. Nothing is downloaded but the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apportion.allocation.cache import Kept
from apportion.allocation.layers import first, head_size, kept_by
from apportion.allocation.quantisation import Quantisation, read_quantisation
from apportion.router.errors import ConfigurationError
from apportion.router.hub import out_of_reach
from apportion.router.torch_companions import hide_misfits

# Matrices that quantisers leave alone whatever their configuration says: they choose experts, or are no matrices.
# What vLLM does not divide among GPUs: each has all of them.
_REPEATED = (
    ".gate",
    ".router",
    ".kv_a_proj_with_mqa",
    ".q_a_proj",
    ".shared_expert_gate",
    ".indexer.wq_b",
    ".indexer.wk",
)
_TEXT = {"language_model", "lm_head"}
_NEVER_QUANTISED = (".gate", ".router", ".conv1d", ".shared_expert_gate")


@dataclass(frozen=True)
class Architecture:
    """Sizes of one model.

    Attributes:
        parameters: all of them, shared ones once, without those of other modalities.
        embedding_parameters: of these, the input table: read a row a token. 0 where the output layer shares it.
        output_parameters: of these, the output layer (or the shared table); quantisers leave both alone.
        expert_parameters: of these, in routed experts.
        matrix_parameters: of these, in matrices that an engine may quantise as it loads them.
        quantised_parameters: of these, in matrices that the checkpoint has quantised.
        repeated_parameters: of these, on every GPU of a replica.
        other_parameters: beside them, in towers for pictures and sound.
        experts, experts_per_token: 0 without routed experts; expert_intermediate: the width of one.
        hidden, intermediate, heads, head_size, vocabulary: as in `config.json`; intermediate 0: no dense layer.
        layers: of any kind.
        kept: what a sequence leaves in the cache.
        quantisation: of the checkpoint itself; None: it is not.
    """

    parameters: int
    embedding_parameters: int
    output_parameters: int
    expert_parameters: int
    matrix_parameters: int
    quantised_parameters: int
    repeated_parameters: int
    other_parameters: int
    experts: int
    experts_per_token: int
    expert_intermediate: int
    hidden: int
    intermediate: int
    heads: int
    head_size: int
    layers: int
    vocabulary: int
    max_positions: int
    kept: Kept
    quantisation: Quantisation | None = None


def read_architecture(source: str, revision: str | None = None) -> Architecture:
    """Reads `config.json` of a folder or of a hub id.

    Raises:
        ConfigurationError: there is none, or it describes nothing that can be computed; says what to do.
    """
    hide_misfits()
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ConfigurationError(f"{source} has no config.json; give the folder that the model was saved to")
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, local_files_only=out_of_reach())
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ConfigurationError(
            f"{source}: no configuration can be read ({_first_line(error)}); give a folder with config.json, "
            "or a hub id while the hub can be reached"
        ) from error
    return architecture_of(config, source)


def architecture_of(config: Any, source: str) -> Architecture:
    """The sizes behind a transformers configuration. Raises ConfigurationError, naming `source` and the mend."""
    try:
        return _architecture(config, source)
    except (AttributeError, TypeError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{source}: its configuration lacks what sizes are computed from ({_first_line(error)}); measure this "
            "model with --measure"
        ) from error


def _architecture(config: Any, source: str) -> Architecture:
    text = config.get_text_config()
    quantisation = read_quantisation(_quantiser(config, text))
    kept = kept_by(text, source)
    counts = _count(config, text, quantisation, source)
    routed = counts["expert_parameters"] > 0
    experts = _number(text, "num_local_experts", "num_experts", "n_routed_experts") if routed else 0
    heads = _number(text, "num_attention_heads")
    intermediate = first(text, "intermediate_size", "ffn_dim", "n_inner")
    return Architecture(
        **counts,
        experts=experts,
        experts_per_token=_number(text, "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk")
        if experts
        else 0,
        expert_intermediate=_number(text, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
        if experts
        else 0,
        hidden=text.hidden_size,
        intermediate=4 * text.hidden_size if intermediate is None else _widest(intermediate),
        heads=heads,
        head_size=int(first(text, "v_head_dim") or head_size(text)) if heads else 0,
        layers=_number(text, "num_hidden_layers", "n_layer"),
        kept=kept,
        vocabulary=text.vocab_size,
        max_positions=_number(text, "max_position_embeddings") or 1 << 30,
        quantisation=quantisation,
    )


def _quantiser(config: Any, text: Any) -> dict[str, Any] | None:
    settings = first(config, "quantization_config") or first(text, "quantization_config")
    return settings if settings is None or isinstance(settings, dict) else dict(settings.to_dict())


def _number(text: Any, *names: str) -> int:
    found = first(text, *names)
    return _widest(found) if found is not None else 0


def _widest(value: Any) -> int:
    """Some families give a width for each layer."""
    return int(max(value)) if isinstance(value, (list, tuple)) else int(value)


def _count(config: Any, text: Any, quantisation: Quantisation | None, source: str) -> dict[str, int]:
    model = _built(config, text, source)
    head, table = model.get_output_embeddings(), model.get_input_embeddings().weight
    shared = head is None or head.weight is table
    ends = {id(table), *(() if head is None else (id(head.weight),))}
    whole = list(model.named_parameters())
    of_text = [(name, one) for name, one in whole if config is text or _TEXT & set(name.split("."))] or whole
    matrices = [
        (module, one.numel())
        for name, one in of_text
        if one.ndim >= 2
        and id(one) not in ends
        and not (module := name.removesuffix(".weight")).endswith(_NEVER_QUANTISED)
    ]
    total = sum(one.numel() for _, one in of_text)
    return {
        "parameters": total,
        "embedding_parameters": 0 if shared else table.numel(),
        "output_parameters": table.numel() if shared else head.weight.numel(),
        "expert_parameters": sum(one.numel() for name, one in of_text if ".experts." in name),
        "matrix_parameters": sum(size for _, size in matrices),
        "quantised_parameters": sum(_covered(matrices, quantisation)),
        "repeated_parameters": sum(one.numel() for name, one in of_text if _is_repeated(name, one.ndim)),
        "other_parameters": sum(one.numel() for _, one in whole) - total,
    }


def _is_repeated(name: str, dimensions: int) -> bool:
    return dimensions == 1 or name.endswith("_bias") or name.removesuffix(".weight").endswith(_REPEATED)


def _covered(matrices: Iterable[tuple[str, int]], quantisation: Quantisation | None) -> Iterable[int]:
    return (size for name, size in matrices if quantisation is not None and quantisation.covers(name))


def _built(config: Any, text: Any, source: str) -> Any:
    """The model without memory for it: the whole one, or its text model where transformers has no more."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    ways = [(AutoModelForCausalLM, text)]
    if config is not text:
        ways.insert(0, (AutoModelForImageTextToText, config))
    for kind, which in ways:
        try:
            return _on_meta(kind, which)
        except (ValueError, KeyError, ImportError, TypeError, AttributeError, RuntimeError) as error:
            reason = _first_line(error)
    raise ConfigurationError(
        f"{source}: transformers cannot build a text model of it ({reason}); measure this model with --measure"
    )


def _on_meta(kind: Any, config: Any) -> Any:
    import torch

    with torch.device("meta"):
        return kind.from_config(config)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
