"""The interface of every strategy."""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.problem import BatchProblem
from apportion.router.errors import InvalidRequestError


class Strategy(Protocol):
    """A way to choose: a frozen dataclass of its options."""

    name: ClassVar[str]

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        """The assignment; `warm` are prices of an earlier batch, `seed` fixes random draws."""
        ...


def check_gap(gap: float) -> None:
    """Raise InvalidRequestError for a relative gap that is negative or infinite."""
    if not 0 <= gap < math.inf:
        raise InvalidRequestError(f"`gap` is {gap}: give a relative gap >= 0, for example 1e-4.", param="gap")


def check_time_limit(time_limit_s: float | None) -> None:
    """Raise InvalidRequestError for a time limit that is not positive."""
    if time_limit_s is not None and not time_limit_s > 0:
        raise InvalidRequestError(
            f"`time_limit_s` is {time_limit_s}: give seconds > 0, or None for no limit.", param="time_limit_s"
        )
