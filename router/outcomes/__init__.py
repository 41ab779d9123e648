"""Outcomes: how models did on past prompts. The product's data format, in memory and on disk.

Names are loaded when first used: importing the package does not load pandas.
"""

from __future__ import annotations

from apportion.router.lazy import lazy_names

_HOME = {
    "OutcomesTable": "table",
    "load_outcomes": "loaders",
    "read_outcomes": "files",
    "write_outcomes": "files",
}

__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
