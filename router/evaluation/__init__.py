"""Evaluation of routing on an outcomes table: all arms at the same spend, over seeds.

Names are loaded when first used: importing the package loads neither torch nor pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ARMS": "arms",
    "Case": "case",
    "Curve": "curve",
    "Row": "protocol",
    "Setting": "batches",
    "Summary": "statistics",
    "evaluate": "protocol",
    "paired_difference": "statistics",
    "summarise_rows": "statistics",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
