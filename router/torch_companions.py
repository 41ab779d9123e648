"""PyTorch's companion packages, kept out of a process whose torch they do not fit."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def hide_misfits() -> bool:
    """Make the companions look absent where they were built for CUDA and torch was not.

    vLLM's CPU build requires them, PyPI has them for CUDA only, and importing them beside torch's CPU build fails, as
    transformers and vLLM do where they find them. Text models need none of them. To be called before those two are
    imported; processes that are forked inherit it.

    Returns:
        Whether there are any.
    """
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return False
    misfits = [name for name in COMPANIONS if _installed(name) and "+cpu" not in version(name)]
    for name in misfits:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python marks what is not to be found
    return bool(misfits)


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
