"""What comes back from assigning a batch: the choice, its proof, and why there is none if there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from apportion.router.arrays import FloatArray, IntArray


class Status(StrEnum):
    """What the assignment is."""

    optimal = "optimal"  # within the asked gap of the best possible
    feasible = "feasible"  # keeps every limit; nothing closer than `gap` is proved
    infeasible = "infeasible"  # no assignment keeps every limit, or the returned one does not


class Termination(StrEnum):
    """Why the solver stopped."""

    gap = "gap"  # proved within the asked gap
    time_limit = "time_limit"  # the deadline came first
    heuristic = "heuristic"  # the strategy proves nothing, or less than was asked
    infeasible = "infeasible"  # proved that no assignment exists


@dataclass(frozen=True, eq=False)
class Prices:
    """Shadow prices: what one more unit of a limit would add to the objective. Reusable as a warm start.

    budget: objective per USD; slots: (n_engines,) objective per slot; limits: (n_limits,) objective per unit of each
    named limit, in the problem's order.
    """

    budget: float
    slots: FloatArray
    limits: FloatArray = field(default_factory=lambda: np.zeros(0))

    @property
    def free(self) -> bool:
        """Whether nothing costs anything."""
        return not (self.budget or self.slots.any() or self.limits.any())


@dataclass(frozen=True)
class Infeasibility:
    """Which row cannot be kept, by how much, and what the cheapest assignment would cost.

    row: "one_model" (some request has no model that may answer it), "slots", "budget", "limits" (the message names
        them), "rows" (those that a user's function added) or "time_limit" (nothing was found by then, nor shown not
        to exist).
    amount: requests without a model, slots missing, USD missing, what is missing of the one limit that is short, or
        requests that several limits leave no room for.
    cheapest_cost_usd: least cost of any assignment that keeps the slots; inf when there is none.
    """

    row: str
    amount: float
    cheapest_cost_usd: float
    message: str


@dataclass(frozen=True, eq=False)
class Assignment:
    """The chosen model of every request and what is known about the choice.

    model: (n_requests,) index of the model, -1 = none (only when infeasible).
    objective: sum of weight x (success - penalty), as the strategy sees it.
    bound: proved upper bound on the objective; inf when the strategy proves none.
    gap: (bound - objective) / |objective|.
    binding: names of the limits without room for one more move: "budget", "slots[3]", "limits[latency]".
    expected_cost_usd, cost_std_usd: mean and spread of the batch's cost (spread 0 without `cost_std_usd`).
    expected_success: mean P(success) over the requests, by the plain estimates.
    prices: shadow prices of budget, slots and limits; pass them as `warm` to the next batch.
    strategy: name of the strategy that chose.
    wall_time_s: how long `assign` took.
    """

    model: IntArray
    status: Status
    termination: Termination
    objective: float
    bound: float
    gap: float
    binding: tuple[str, ...]
    expected_cost_usd: float
    cost_std_usd: float
    expected_success: float
    prices: Prices
    infeasibility: Infeasibility | None
    strategy: str
    wall_time_s: float = 0.0

    @property
    def feasible(self) -> bool:
        return self.status is not Status.infeasible
