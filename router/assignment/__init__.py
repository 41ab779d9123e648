"""Assignment of a batch of requests to models: the problem, the strategies, the proof.

Importing this loads neither Pyomo nor HiGHS; `warm_up()` loads both ahead of the first batch.
"""

from __future__ import annotations

from apportion.router.assignment.admission import first_in_line, largest_feasible_subset
from apportion.router.assignment.greedy import Greedy
from apportion.router.assignment.highs import solve_model
from apportion.router.assignment.hull import Ndch, NdchP
from apportion.router.assignment.mip import Mip
from apportion.router.assignment.model import full_model, warm_up
from apportion.router.assignment.options import strategy_from
from apportion.router.assignment.outcome import Assignment, Infeasibility, Prices, Status, Termination
from apportion.router.assignment.per_request import PerQuery, Price, Static, Threshold
from apportion.router.assignment.problem import ENDLESS, BatchProblem, Limit
from apportion.router.assignment.registry import STRATEGIES, assign
from apportion.router.assignment.repair import enforce
from apportion.router.assignment.robust import RobustMip
from apportion.router.assignment.strategy import Strategy

__all__ = [
    "ENDLESS",
    "STRATEGIES",
    "Assignment",
    "BatchProblem",
    "Greedy",
    "Infeasibility",
    "Limit",
    "Mip",
    "Ndch",
    "NdchP",
    "PerQuery",
    "Price",
    "Prices",
    "RobustMip",
    "Static",
    "Status",
    "Strategy",
    "Termination",
    "Threshold",
    "assign",
    "enforce",
    "first_in_line",
    "full_model",
    "largest_feasible_subset",
    "solve_model",
    "strategy_from",
    "warm_up",
]
