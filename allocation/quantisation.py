"""How the weights of a checkpoint are quantised, as its `quantization_config` says and as vLLM reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

# The least compute capability by vLLM's name of the method (0.32: `get_min_capability` of
# vllm/model_executor/layers/quantization; `tests/allocation/test_vllm.py` compares them).
CAPABILITIES = {
    "awq": 75,
    "compressed-tensors": 70,
    "fbgemm_fp8": 80,
    "fp8": 75,
    "fp_quant": 100,
    "gptq": 60,
    "inc": 60,
    "modelopt": 80,
    "modelopt_fp4": 75,
    "modelopt_mxfp8": 80,
    "mxfp4": 80,
    "quark": 70,
    "torchao": 75,
}
_ALIASES = {"awq_marlin": "awq", "gptq_marlin": "gptq", "auto-round": "inc", "gpt_oss_mxfp4": "mxfp4"}
# Sizes are known, but vLLM 0.32 has no loader for them.
_NOT_LOADED = frozenset({"bitsandbytes", "eetq", "hqq", "aqlm", "vptq", "spqr", "higgs", "quanto"})
_SCALE_BITS = 16
# A scale of 32 bits for each output, whose inputs are some thousands, divided among GPUs.
_CHANNEL_BITS = 0.02
# Microscaling formats: 8-bit scales for 32 numbers; NVFP4: for 16.
_MX_BITS, _MX_GROUP, _NV_GROUP = 8, 32, 16
_MX_PADS = (128, 256)  # the most that one of its kernels takes (0.32: fused_moe/oracle/mxfp4.py)
# bitsandbytes keeps a 32-bit scale for 64 numbers, or with double quantisation 8 bits for 64 and 32 for 256 of those.
_BNB_BITS, _BNB_NESTED_BITS = 4 + 32 / 64, 4 + 8 / 64 + 32 / (64 * 256)


@dataclass(frozen=True)
class Quantisation:
    """How matrices are quantised.

    Attributes:
        method: vLLM's name.
        bits: of a weight, with its share of scales and zeros.
        arithmetic: what products are computed in where a GPU can: `half`, `fp8`, `int8`, `fp4`.
        capability: the least compute capability of a GPU, 80 for 8.0.
        group: weights of an input that share a scale, which must lie on one GPU; 0: no such.
        block: outputs and inputs that share a scale.
        ignored: modules that keep the model's type: names, or patterns with `*`, or regular expressions after `re:`.
        experts_only: whether everything but routed experts keeps the model's type.
        unknown: why its bits are not known; `bits` is 0 then; empty: they are.
        pads: multiples that a GPU's part of an expert's width, and its inputs, are filled up to; None: they are not.
        refused: why vLLM does not load it; empty: it does.
    """

    method: str
    bits: float
    arithmetic: str = "half"
    capability: int = 0
    group: int = 0
    block: tuple[int, int] | None = None
    ignored: tuple[str, ...] = ()
    experts_only: bool = False
    unknown: str = ""
    pads: tuple[int, int] | None = None
    refused: str = ""

    def covers(self, module: str) -> bool:
        """Whether the weights of this module are quantised."""
        if self.experts_only and ".experts" not in module:
            return False
        return not any(_matches(pattern, module) for pattern in self.ignored)


ONLINE_FP8 = Quantisation("fp8", 8.0, "fp8", CAPABILITIES["fp8"])
"""What vLLM does to a checkpoint that is not quantised, when told `quantization: fp8`."""


def read_quantisation(settings: Mapping[str, Any] | None) -> Quantisation | None:
    """What `quantization_config` says; None where there is none."""
    if not settings:
        return None
    name = str(settings.get("quant_method", "")).lower()
    method = _ALIASES.get(name, name)
    if method == "modelopt":
        method = _modelopt(settings)
    reader = _READERS.get(method)
    if reader is None:
        return _unknown(name or "unknown", "whose bits are not known here", _ignored(settings))
    return reader(method, settings, _ignored(settings))


def _plain_bits(group: int, bits: float, zeros: bool = True) -> float:
    return bits + (_SCALE_BITS + (bits if zeros else 0)) / group if group > 0 else bits


def _integers(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    """AWQ, GPTQ, Intel's auto-round."""
    bits = settings.get("bits") or settings.get("w_bit")
    if bits is None:
        return _unknown(method, "without bits in quantization_config", ignored)
    group = int(settings.get("group_size") or settings.get("q_group_size") or -1)
    return Quantisation(
        method, _plain_bits(group, float(bits)), "half", CAPABILITIES[method], max(group, 0), ignored=ignored
    )


def _fp8(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    block = settings.get("weight_block_size")
    pair = (int(block[0]), int(block[1])) if block else None
    bits = 8 + (32 / (pair[0] * pair[1]) if pair else 0.0)
    return Quantisation(method, bits, "fp8", CAPABILITIES[method], block=pair, ignored=ignored)


def _mxfp4(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    bits = 4 + _MX_BITS / _MX_GROUP
    return Quantisation(method, bits, "half", CAPABILITIES[method], experts_only=True, pads=_MX_PADS)


def _modelopt_fp4(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    return Quantisation(method, 4 + 8 / _NV_GROUP, "fp4", CAPABILITIES[method], _NV_GROUP, ignored=ignored)


def _modelopt_mxfp8(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    return Quantisation(method, 8 + _MX_BITS / _MX_GROUP, "fp8", CAPABILITIES[method], _MX_GROUP, ignored=ignored)


def _fp_quant(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    nvidia = "nv" in str(settings.get("forward_dtype", "")).lower()
    return Quantisation(
        method, 4 + 8 / (_NV_GROUP if nvidia else _MX_GROUP), "fp4", CAPABILITIES[method], ignored=ignored
    )


def _bitsandbytes(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    nested = settings.get("bnb_4bit_use_double_quant")
    bits = 8.0 if settings.get("load_in_8bit") else _BNB_NESTED_BITS if nested else _BNB_BITS
    return Quantisation(method, bits, "half", ignored=ignored, refused=_not_loaded(method))


def _foreign(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    bits = settings.get("bits") or settings.get("nbits") or 8
    return Quantisation(method, float(bits), "half", ignored=ignored, refused=_not_loaded(method))


def _torchao(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    kind = str(settings.get("quant_type", "")).lower()
    if "int4" in kind:
        return Quantisation(method, _plain_bits(128, 4), "half", CAPABILITIES[method], 128, ignored=ignored)
    arithmetic = "fp8" if "float8" in kind and "weightonly" not in kind.replace("_", "") else "half"
    return Quantisation(method, 8.0, arithmetic, CAPABILITIES[method], ignored=ignored)


def _compressed_tensors(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    groups = settings.get("config_groups") or {}
    return _of_groups(method, [_scheme(group) for group in groups.values()], ignored)


def _quark(method: str, settings: Mapping[str, Any], ignored: tuple[str, ...]) -> Quantisation:
    whole = settings.get("global_quant_config") or {}
    weight, inputs = whole.get("weight") or {}, whole.get("input_tensors") or {}
    kinds = {"fp8_e4m3": (8, "float"), "int8": (8, "int"), "int4": (4, "int"), "fp4": (4, "float")}
    bits, kind = kinds.get(str(weight.get("dtype")), (None, ""))
    if bits is None:
        return _unknown(method, "without global_quant_config.weight.dtype in quantization_config", ignored)
    scheme = {
        "weights": {"num_bits": bits, "type": kind, "group_size": weight.get("group_size")},
        "input_activations": {"num_bits": kinds.get(str(inputs.get("dtype")), (16, ""))[0]} if inputs else None,
    }
    return _of_groups(method, [_scheme(scheme)], ignored)


@dataclass(frozen=True)
class _Scheme:
    bits: float
    arithmetic: str
    group: int
    block: tuple[int, int] | None
    capability: int


def _scheme(group: Mapping[str, Any]) -> _Scheme | None:
    """One kind of weights and activations, in the words of compressed-tensors."""
    weights, inputs = group.get("weights") or {}, group.get("input_activations") or {}
    if not weights.get("num_bits"):
        return None
    bits, number = float(weights["num_bits"]), str(weights.get("type", "int"))
    size = int(weights.get("group_size") or 0)
    block = weights.get("block_structure")
    pair = (int(block[0]), int(block[1])) if isinstance(block, Sequence) and not isinstance(block, str) else None
    if number == "float" and bits == 4:
        both = bool(inputs) and int(inputs.get("num_bits") or 16) == 4
        return _Scheme(4 + 8 / (size or _NV_GROUP), "fp4" if both else "half", size or _NV_GROUP, None, 75)
    scales = _plain_bits(size, bits, zeros=not weights.get("symmetric", True)) if size > 0 else bits + _CHANNEL_BITS
    eight = bool(inputs) and int(inputs.get("num_bits") or 16) == 8
    arithmetic = {"float": "fp8", "int": "int8"}[number] if eight and bits == 8 else "half"
    # FP8 without FP8 arithmetic is widened as it is read (w8a16); 4-bit weights with 8-bit inputs need Hopper.
    capability = 90 if eight and bits == 4 and str(inputs.get("type")) == "float" else 75
    return _Scheme(scales, arithmetic, max(size, 0), pair, capability)


def _of_groups(method: str, schemes: Sequence[_Scheme | None], ignored: tuple[str, ...]) -> Quantisation:
    """One description of all groups: the most bits, the hardest needs, the slowest arithmetic."""
    found = [scheme for scheme in schemes if scheme is not None]
    if not found:
        return _unknown(method, "without config_groups with num_bits of weights in quantization_config", ignored)
    widest = max(found, key=lambda scheme: scheme.bits)
    return Quantisation(
        method,
        widest.bits,
        widest.arithmetic,
        max(CAPABILITIES[method], *(scheme.capability for scheme in found)),
        max(scheme.group for scheme in found),
        widest.block,
        ignored,
    )


_READERS = {
    "awq": _integers,
    "compressed-tensors": _compressed_tensors,
    "fbgemm_fp8": _fp8,
    "fp8": _fp8,
    "fp_quant": _fp_quant,
    "gptq": _integers,
    "inc": _integers,
    "modelopt": _fp8,
    "modelopt_fp4": _modelopt_fp4,
    "modelopt_mxfp8": _modelopt_mxfp8,
    "mxfp4": _mxfp4,
    "quark": _quark,
    "torchao": _torchao,
    "bitsandbytes": _bitsandbytes,
    **dict.fromkeys(_NOT_LOADED - {"bitsandbytes"}, _foreign),
}


def _modelopt(settings: Mapping[str, Any]) -> str:
    """NVIDIA's checkpoints name one method and say the format beside it."""
    inner = settings.get("quantization") or {}
    algorithm = str(settings.get("quant_algo") or inner.get("quant_algo") or "").upper()
    if "MXFP8" in algorithm:
        return "modelopt_mxfp8"
    return "modelopt_fp4" if "FP4" in algorithm else "modelopt"


def _ignored(settings: Mapping[str, Any]) -> tuple[str, ...]:
    inner = settings.get("quantization") or {}
    names = (
        "modules_to_not_convert",
        "ignored_layers",
        "ignore",
        "exclude_modules",
        "exclude",
        "llm_int8_skip_modules",
    )
    found = next((value for name in names if (value := settings.get(name) or inner.get(name))), ())
    return tuple(str(name) for name in found)


def _matches(pattern: str, module: str) -> bool:
    """Checkpoints name modules from their own root, so what stands before the layers does not count."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None or re.match(pattern[3:], _tail(module)) is not None
    name, own = _tail(pattern), _tail(module)
    if "*" in name:
        return fnmatch(own, name) or fnmatch(own, f"{name}.*")
    return own == name or own.startswith(f"{name}.") or f".{name}." in f".{own}."


def _tail(module: str) -> str:
    at = module.find("layers.")
    return module[at:] if at >= 0 else module.removeprefix("model.")


def _unknown(method: str, why: str, ignored: tuple[str, ...]) -> Quantisation:
    return Quantisation(method, 0.0, ignored=ignored, unknown=f"quantised as {method}, {why}")


def _not_loaded(method: str) -> str:
    return f"vLLM 0.32 does not load {method} checkpoints; give a checkpoint in another format"
