"""Outcomes: how models did on past prompts. The product's data format, in memory and on disk.

Names are loaded when first used: importing the package does not load pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "OutcomesTable": "table",
    "load_outcomes": "loaders",
    "read_outcomes": "files",
    "write_outcomes": "files",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
