"""What the layers of a model keep of a sequence, by its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from apportion.allocation.cache import CacheLayers, Kept, StateLayers
from apportion.router.errors import ConfigurationError

_FULL = frozenset({"full_attention", "attention", "indexed_attention"})
_STATES = frozenset({"linear_attention", "mamba", "conv", "mamba2"})
_BOTH = frozenset({"hybrid"})
_NOTHING = frozenset({"mlp", "moe", "dense"})
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
# Of a token in the index of sparse attention: 8-bit numbers with a 32-bit scale for 128 of them.
_INDEX_SCALE_BYTES, _INDEX_SCALED = 4, 128
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "float": 4}


def kept_by(text: Any, source: str) -> Kept:
    """What the configuration of a text model says. Raises ConfigurationError, naming `source` and the mend."""
    kinds = Counter(layer_kinds(text))
    unknown = sorted(set(kinds) - _FULL - _STATES - _BOTH - _NOTHING - set(_WINDOWS))
    if unknown:
        raise ConfigurationError(
            f"{source}: layers of kind {', '.join(unknown)} keep what cannot be computed here; measure this model with "
            "--measure"
        )
    both = sum(kinds[kind] for kind in _BOTH)
    full = sum(kinds[kind] for kind in _FULL) + both
    attention = []
    if full:
        attention.append(_full_layers(text, full))
        attention += _index_layers(text, full)
    for kind, field in _WINDOWS.items():
        window = int(first(text, field) or 0)
        if kinds[kind]:
            heads, values = _sizes(text)
            attention.append(CacheLayers(kinds[kind], heads, values, window, chunked=kind == "chunked_attention"))
    states = sum(kinds[kind] for kind in _STATES) + both
    return Kept(tuple(attention), (_state_layers(text, states, source),) if states else ())


def layer_kinds(text: Any) -> list[str]:
    """The kind of each layer that keeps something of its own."""
    layers = int(first(text, "num_hidden_layers", "n_layer") or 0)
    kinds = first(text, "layers_block_type", "layer_types")
    if kinds is None and text.model_type == "falcon_h1":
        kinds = ["hybrid"] * layers
    elif kinds is None and text.model_type in ("mamba", "mamba2", "falcon_mamba"):
        kinds = ["mamba"] * layers
    elif kinds is None:
        windowed = first(text, "sliding_window") and first(text, "use_sliding_window") is not False
        kinds = ["sliding_attention" if windowed else "full_attention"] * layers
    shared = int(first(text, "num_kv_shared_layers") or 0)  # they read what earlier layers keep
    return list(kinds)[: len(kinds) - shared]


def first(text: Any, *names: str) -> Any:
    """The first of these fields that is set."""
    return next((value for name in names if (value := getattr(text, name, None)) is not None), None)


def head_size(text: Any) -> int:
    return int(first(text, "head_dim", "attention_head_dim") or text.hidden_size // text.num_attention_heads)


def _sizes(text: Any) -> tuple[int, int]:
    """KV heads, and numbers that a token leaves for each of them."""
    latent = first(text, "kv_lora_rank")
    if latent:  # multi-head latent attention keeps one compressed vector and one rotary key
        return 1, int(latent) + int(text.qk_rope_head_dim)
    heads = int(first(text, "num_key_value_heads", "n_head_kv") or text.num_attention_heads)
    return heads, head_size(text) + int(first(text, "v_head_dim") or head_size(text))


def _full_layers(text: Any, layers: int) -> CacheLayers:
    heads, values = _sizes(text)
    larger = first(text, "global_head_dim")
    if larger:  # Gemma 4
        heads, values = int(first(text, "num_global_key_value_heads") or heads), 2 * int(larger)
    return CacheLayers(layers, heads, values)


def _index_layers(text: Any, layers: int) -> list[CacheLayers]:
    """Sparse attention looks up in an index which tokens to look back at."""
    index = first(text, "index_head_dim")
    if not index or not first(text, "index_topk"):
        return []
    size = int(index) + int(index) // _INDEX_SCALED * _INDEX_SCALE_BYTES
    return [CacheLayers(layers, 1, int(index), fixed_bytes=size)]


def _state_layers(text: Any, layers: int, source: str) -> StateLayers:
    for family in (_gated_delta, _delta, _mamba2, _mamba, _short_convolution, _lightning):
        found = family(text, layers)
        if found is not None:
            return found
    raise ConfigurationError(
        f"{source}: layers of {text.model_type} keep a state whose size is not known here; measure this model with "
        "--measure"
    )


def _recurrent_bytes(text: Any) -> int:
    stated = first(text, "mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    return _BYTES.get(str(stated).removeprefix("torch."), 0) if stated is not None else 0


def _gated_delta(text: Any, layers: int) -> StateLayers | None:
    """Qwen3-Next, Qwen3.5, OLMo hybrid."""
    heads = first(text, "linear_num_value_heads")
    if heads is None:
        return None
    keys = int(text.linear_num_key_heads) * int(text.linear_key_head_dim)
    values = int(heads) * int(text.linear_value_head_dim)
    convolved = (2 * keys + values) * (int(text.linear_conv_kernel_dim) - 1)
    recurrent = values * int(text.linear_key_head_dim)
    return StateLayers(layers, convolved, recurrent, _recurrent_bytes(text), heads=int(text.linear_num_key_heads))


def _delta(text: Any, layers: int) -> StateLayers | None:
    """Kimi Linear."""
    heads, size = first(text, "linear_num_heads"), first(text, "linear_head_dim")
    if heads is None or size is None:
        return None
    convolved = 3 * int(heads) * int(size) * (int(first(text, "linear_conv_kernel_dim") or 4) - 1)
    return StateLayers(layers, convolved, int(heads) * int(size) ** 2, 4, heads=int(heads))


def _mamba2(text: Any, layers: int) -> StateLayers | None:
    """Granite 4, Bamba, Falcon-H1, Nemotron-H, Zamba2, Mamba 2."""
    heads = first(text, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    size = first(text, "mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
    groups = first(text, "mamba_n_groups", "mamba_ngroups", "n_groups")
    state = first(text, "mamba_d_state", "ssm_state_size", "state_size")
    if heads is None or groups is None or state is None:
        return None
    if size is None or size == "auto":
        size = int(first(text, "mamba_expand", "expand")) * text.hidden_size // int(heads)
    steps = int(first(text, "mamba_d_conv", "conv_kernel")) - 1
    inner = int(heads) * int(size)
    recurrent = inner * int(state)
    return StateLayers(
        layers,
        inner * steps,
        recurrent,
        _recurrent_bytes(text),
        group_values=2 * int(state) * steps,
        groups=int(groups),
        heads=int(heads),
        held=3,
        group_inputs=2 * int(state),
    )


def _mamba(text: Any, layers: int) -> StateLayers | None:
    """Jamba, Mamba, Falcon Mamba."""
    state, steps = first(text, "mamba_d_state", "state_size"), first(text, "mamba_d_conv", "conv_kernel")
    if state is None or steps is None:
        return None
    inner = int(
        first(text, "intermediate_size") if text.model_type != "jamba" else text.mamba_expand * text.hidden_size
    )
    return StateLayers(layers, inner * (int(steps) - 1), inner * int(state), _recurrent_bytes(text), heads=inner)


def _short_convolution(text: Any, layers: int) -> StateLayers | None:
    """LFM2."""
    steps = first(text, "conv_L_cache")
    if steps is None:
        return None
    inner = int(first(text, "conv_dim") or text.hidden_size)
    return StateLayers(layers, inner * (int(steps) - 1), 0, heads=inner)


def _lightning(text: Any, layers: int) -> StateLayers | None:
    """MiniMax-01."""
    if text.model_type not in ("minimax", "minimax_text_01"):
        return None
    heads = int(text.num_attention_heads)
    return StateLayers(layers, 0, heads * head_size(text) ** 2, 4, heads=heads)


def divides(kept: Kept, gpus: int) -> str:
    """Why what is kept cannot be divided among so many GPUs; empty: it can."""
    for kind in kept.attention:
        if kind.heads > 1 and kind.heads % gpus and gpus % kind.heads:
            return f"{kind.heads} KV heads and {gpus} GPUs do not divide"
    uneven: Sequence[int] = [kind.heads for kind in kept.states if kind.heads % gpus]
    return f"{uneven[0]} heads of linear layers cannot be divided among {gpus} GPUs" if uneven else ""
