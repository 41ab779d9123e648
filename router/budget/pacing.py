"""Pacing: how much of a window's money the next batch may spend.

A pacer sees each batch's success and cost and how the window stands, and answers with an allowance; the planner then
assigns the batch within it. Knows no database and no clock: times are passed in, in any one unit (seconds; or, offline,
requests).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

from apportion.router.arrays import FloatArray
from apportion.router.checked import Doc
from apportion.router.errors import ConfigurationError

ROUNDING = 1e-6  # so much more than an assignment costs, so that the solver's tolerances do not refuse it


@dataclass(frozen=True, slots=True)
class WindowState:
    """A window of money at one moment.

    `committed_usd`: spent, and planned for requests in flight. `starts`, `ends` and `now` are in one unit.
    """

    budget_usd: float
    committed_usd: float
    starts: float
    ends: float
    now: float

    @property
    def left_usd(self) -> float:
        return max(0.0, self.budget_usd - self.committed_usd)

    @property
    def elapsed(self) -> float:
        """Share of the window that is over, in [0, 1]."""
        return min(1.0, max(0.0, (self.now - self.starts) / (self.ends - self.starts)))


class Pacer(Protocol):
    """Decides allowances; may learn from batch to batch."""

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        """What the batch may spend in USD, never more than the window has left.

        Args:
            success: (n_requests, n_models).
            cost_usd: (n_requests, n_models), `inf` where a model may not answer; one finite value a row at least.
            window: as it stands before the batch.
        """
        ...


@dataclass(frozen=True)
class PerBatch:
    """A hard cap for each batch by itself, as the batch paper has it: what one leaves unspent helps no other."""

    usd_per_request: float

    def __post_init__(self) -> None:
        check_positive("usd_per_request", self.usd_per_request)

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        return min(len(success) * self.usd_per_request, window.left_usd)


@dataclass(frozen=True)
class CarryOver:
    """The window's money becomes available evenly over its time; what is unspent carries over."""

    ahead: Annotated[
        float, Doc("share of the window that spending may run ahead of its course, so that a burst can be paid")
    ] = 0.02

    def __post_init__(self) -> None:
        check_positive("ahead", self.ahead)

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        # The lead shrinks with the window, or its end would be left without money.
        course = window.elapsed + self.ahead * (1 - window.elapsed)
        due_usd = window.budget_usd * course - window.committed_usd
        return at_least_the_cheapest(due_usd, cost_usd, window)


def at_least_the_cheapest(usd: float, cost_usd: FloatArray, window: WindowState) -> float:
    """Pacing makes answers cheaper, it does not refuse them: only what the window has left does."""
    cheapest_usd = float(cost_usd.min(axis=1).sum())
    return min(max(usd, cheapest_usd * (1 + ROUNDING)), window.left_usd)


def check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} is {value}; give a finite number above zero")
