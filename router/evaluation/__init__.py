"""Evaluation of routing on an outcomes table: all arms at the same spend, over seeds.

Names are loaded when first used: importing the package loads neither torch nor pandas.
"""

from __future__ import annotations

from apportion.router.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _HOME)
