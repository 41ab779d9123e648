"""Money: limits by window and scope, a durable ledger, and the pacing of what a batch may spend.

    Account (key, tenant, job)      who pays
    Limit (scope, window, USD)      what may be spent, of which LimitIndex finds those of a request
    Claim (account, model, nano)    a request's worst case --reserve--> BudgetLedger --settle--> what was counted
    Standing (balances)             how the limits stand; Shortage is one that has no room, and until when
    Tally                           what is expected to be spent, in memory
    Pacer (WindowState -> USD)      what a batch may spend of a window's money

Importing this loads no database driver; `apportion.router.budget.ledger` does.
"""

from __future__ import annotations

from apportion.router.budget.limits import UNNAMED, Account, Job, Limit, LimitIndex, Scope, Shortage, Window
from apportion.router.budget.money import from_nano, spelled, to_nano, worst_case_nano
from apportion.router.budget.pacing import CarryOver, Pacer, PerBatch, WindowState
from apportion.router.budget.shadow_price import DualDescent, Resolving
from apportion.router.budget.tally import Tally

__all__ = [
    "UNNAMED",
    "Account",
    "CarryOver",
    "DualDescent",
    "Job",
    "Limit",
    "LimitIndex",
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
