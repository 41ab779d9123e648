"""Whether the matrices of a model can be divided among GPUs: by heads, and by what a quantiser's scales belong to."""

from __future__ import annotations

from math import gcd

from apportion.allocation.architecture import Architecture
from apportion.allocation.layers import divides
from apportion.allocation.quantisation import Quantisation

# vLLM splits the blocks of experts' scales as far as this to make them fit (0.32: fused_moe/oracle/fp8.py).
_LEAST_REFINED = 32


def undivided(model: Architecture, quantisation: Quantisation | None, gpus: int) -> str:
    """Why the model cannot run on so many GPUs together; empty: it can."""
    if model.heads % gpus:
        return f"{model.heads} attention heads cannot be divided among {gpus} GPUs"
    reason = divides(model.kept, gpus)
    if reason or quantisation is None or gpus == 1:
        return reason
    if quantisation.block is not None:
        return _uneven_blocks(model, quantisation, quantisation.block, gpus)
    return _split_groups(model, quantisation, gpus) if quantisation.group else ""


def _inputs(model: Architecture, quantisation: Quantisation) -> dict[str, int]:
    """Widths of the inputs that are divided among GPUs, of dense matrices that are quantised."""
    if quantisation.experts_only:
        return {}
    dense = not model.experts or model.intermediate != model.expert_intermediate
    return {"attention": model.heads * model.head_size} | ({"intermediate": model.intermediate} if dense else {})


def _uneven_blocks(model: Architecture, quantisation: Quantisation, block: tuple[int, int], gpus: int) -> str:
    for name, width in _inputs(model, quantisation).items():
        part = width // gpus
        if width and (part % block[1] or part % block[0]):
            return f"{name} {width} among {gpus} GPUs cuts the quantiser's blocks of {block[0]} x {block[1]}"
    heads = max((kind.heads for kind in model.kept.attention), default=0)
    part = max(1, heads // gpus) * model.head_size
    if heads > 1 and part % block[0]:
        return f"{heads} KV heads among {gpus} GPUs cut the quantiser's blocks of {block[0]} x {block[1]}"
    if model.experts:
        part = model.expert_intermediate // gpus
        if part % block[0] and gcd(*block, part, model.hidden) < _LEAST_REFINED:
            return f"experts {model.expert_intermediate} among {gpus} GPUs cut the quantiser's blocks"
    return ""


def _split_groups(model: Architecture, quantisation: Quantisation, gpus: int) -> str:
    widths = _inputs(model, quantisation)
    if model.experts:
        widths["experts"] = model.expert_intermediate
    for name, width in widths.items():
        if quantisation.group < width and (width % gpus or width // gpus % quantisation.group):
            return f"{name} {width} among {gpus} GPUs cuts the quantiser's groups of {quantisation.group}"
    return ""
