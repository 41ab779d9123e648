"""How a job is planned."""

from __future__ import annotations

from dataclasses import dataclass

from apportion.router.assignment import Mip, Strategy

SEARCH_S, SEARCH_ROWS_PER_S = 2.0, 20_000
PROVED = Mip(time_limit_s=120.0)


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How a job is planned.

    strategy: who assigns; `robust_mip` of the kind cost holds the budget with a confidence although costs are
    uncertain. best_effort: plan as many rows as possible where not all can be.
    """

    strategy: Strategy = PROVED
    best_effort: bool = False


def search_limit_s(n_rows: int) -> float:
    """Seconds for what is sought without a proof of the last row: whom to leave out, what would do."""
    return SEARCH_S + n_rows / SEARCH_ROWS_PER_S


PLAIN = PlanOptions()
