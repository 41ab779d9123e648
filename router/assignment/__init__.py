"""Assignment of a batch of requests to models: the problem, the strategies, the proof.

Importing this loads neither Pyomo nor HiGHS; `warm_up()` loads both ahead of the first batch.
"""

from __future__ import annotations

from .admission import first_in_line, largest_feasible_subset
from .greedy import Greedy
from .hull import Ndch, NdchP
from .mip import Mip
from .model import full_model, solve_model, warm_up
from .outcome import Assignment, Infeasibility, Prices, Status, Termination
from .per_request import PerQuery, Price, Static, Threshold
from .problem import BatchProblem
from .registry import STRATEGIES, assign, strategy_from
from .repair import enforce
from .robust import RobustMip
from .strategy import Strategy

__all__ = [
    "STRATEGIES",
    "Assignment",
    "BatchProblem",
    "Greedy",
    "Infeasibility",
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
