"""Money: limits by window and scope, a durable ledger, and the pacing of what a batch may spend.

Importing this loads no database driver; `router.budget.ledger` does.
"""

from __future__ import annotations

from .limits import Account, Limit, Scope, Shortage, Window
from .money import from_nano, spelled, to_nano, worst_case_nano
from .pacing import CarryOver, Pacer, PerBatch, WindowState
from .shadow_price import DualDescent, Resolving
from .tally import Tally

__all__ = [
    "Account",
    "CarryOver",
    "DualDescent",
    "Limit",
    "Pacer",
    "PerBatch",
    "Resolving",
    "Scope",
    "Shortage",
    "Tally",
    "Window",
    "WindowState",
    "from_nano",
    "spelled",
    "to_nano",
    "worst_case_nano",
]
