"""The number formats of a deployed model: what weights and cache are kept in, and what products are computed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from apportion.allocation.architecture import Architecture
from apportion.allocation.gpus import GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.quantisation import ONLINE_FP8, Quantisation
from apportion.router.errors import ConfigurationError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# vLLM refuses bfloat16 below (0.32: vllm/platforms/cuda.py), and takes 8-bit integers for products from here on.
BFLOAT16_CAPABILITY = 80
INT8_CAPABILITY = 75


@dataclass(frozen=True)
class Numbers:
    """Formats of one model.

    Attributes:
        dtype_bytes: of what is not quantised; cache_bytes: of a number in the cache.
        quantisation: None: nothing is quantised.
        quantised_parameters: those whose matrices are.
        sizes: given in place of computed ones, as in `models.SizesEntry`.
    """

    dtype_bytes: int
    cache_bytes: float
    quantisation: Quantisation | None = None
    quantised_parameters: int = 0
    sizes: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def bits(self) -> float:
        """Of a quantised weight."""
        stated = self.sizes.get("bits_per_weight")
        return stated if stated is not None else self.quantisation.bits if self.quantisation else 8.0 * self.dtype_bytes

    def tflops(self, gpu: GpuType) -> float:
        """What a GPU computes products of quantised matrices with; formats that it has not are widened to 16 bits."""
        arithmetic = "half" if self.quantisation is None else self.quantisation.arithmetic
        if arithmetic == "int8" and gpu.capability is not None and gpu.capability >= INT8_CAPABILITY:
            return 2 * gpu.half_tflops
        width = {"fp8": gpu.fp8_tflops, "fp4": gpu.fp4_tflops}.get(arithmetic)
        return width or gpu.half_tflops


def numbers_of(model: ModelSpec, architecture: Architecture) -> Numbers:
    """The formats that a model's replicas use.

    Raises:
        ConfigurationError: its description asks for what the checkpoint does not have, or nothing says how large its
            weights are; says what to do.
    """
    quantisation = _stated(model, architecture.quantisation)
    if quantisation is not None and quantisation.unknown and not {"bits_per_weight", "weights_gib"} & set(model.sizes):
        raise ConfigurationError(
            f"{model.source}: {quantisation.unknown}; give `sizes: {{bits_per_weight: ...}}` or `sizes: {{weights_gib: "
            "...}` beside it, or measure this model with --measure"
        )
    online = quantisation is ONLINE_FP8
    quantised = architecture.matrix_parameters if online else architecture.quantised_parameters
    if "bits_per_weight" in model.sizes and quantisation is None:
        quantised = architecture.matrix_parameters
    dtype_bytes = DTYPE_BYTES[model.dtype]
    return Numbers(dtype_bytes, _cache_bytes(model, dtype_bytes), quantisation, quantised, model.sizes)


def unsupported(model: ModelSpec, numbers: Numbers, gpu: GpuType) -> str:
    """Why the engine would not run these formats on this GPU; empty: it would."""
    quantisation, capability = numbers.quantisation, gpu.capability
    if quantisation is not None and quantisation.refused:
        return quantisation.refused
    if capability is None:
        return ""
    if model.dtype == "bfloat16" and capability < BFLOAT16_CAPABILITY:
        return f"{gpu.name} has no bfloat16; set dtype: float16"
    if quantisation is not None and capability < quantisation.capability:
        return (
            f"{quantisation.method} needs compute capability {quantisation.capability / 10:g}, and {gpu.name} has "
            f"{capability / 10:g}; give a checkpoint in another format"
        )
    if str(model.arguments.get("kv_cache_dtype", "")).startswith("fp8") and capability < BFLOAT16_CAPABILITY:
        return f"{gpu.name} keeps no FP8 cache; leave kv_cache_dtype out"
    return ""


def _cache_bytes(model: ModelSpec, dtype_bytes: int) -> float:
    """Of a number in the cache, by vLLM's `kv_cache_dtype`."""
    kind = str(model.arguments.get("kv_cache_dtype", "auto"))
    if kind in ("auto", model.dtype):
        return dtype_bytes
    if kind in DTYPE_BYTES:
        return DTYPE_BYTES[kind]
    if kind.startswith(("fp8", "int8")):
        return 1
    if "cache_bytes_per_token" in model.sizes:
        return dtype_bytes
    raise ConfigurationError(
        f"model {model.name!r}: the size of a cache of kv_cache_dtype {kind} is not known here; give `sizes: "
        "{cache_bytes_per_token: ...}` in its description"
    )


def _stated(model: ModelSpec, own: Quantisation | None) -> Quantisation | None:
    """The checkpoint's quantisation, checked beside what the description says of it; FP8 is also made while loading."""
    stated = model.quantisation
    if stated is None:
        return own
    if own is None:
        if stated == "fp8":
            return ONLINE_FP8
        raise ConfigurationError(
            f"model {model.name!r}: quantisation {stated}, but {model.source} is not quantised; give a checkpoint that "
            "is, leave it out, or set fp8, which engines do while they load"
        )
    if not _is(own, stated):
        raise ConfigurationError(
            f"model {model.name!r}: quantisation {stated}, but {model.source} is quantised as {own.method}; leave it "
            "out, since engines read it from the checkpoint"
        )
    return own


def _is(own: Quantisation, stated: str) -> bool:
    if stated == "int4":
        return own.bits < 6
    if stated == "int8":
        return 6 <= own.bits < 10 and own.arithmetic != "fp8"
    return own.method == {"nvfp4": "modelopt_fp4"}.get(stated, stated)
