"""The interface of every strategy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Protocol, Self

from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.problem import BatchProblem
from apportion.router.checked import Doc
from apportion.router.errors import InvalidRequestError


class Strategy(Protocol):
    """A way to choose: a frozen dataclass of its options. Subclasses say what differs from the answers given here."""

    name: ClassVar[str]

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        """The assignment; `warm` are prices of an earlier batch, `seed` fixes random draws."""
        ...

    @property
    def needs_samples(self) -> bool:
        """Whether `success_samples` of the batch make a difference; they are large, so they are sent only then."""
        return False

    @property
    def maximises_value(self) -> bool:
        """Whether an assignment with every request on its most valuable model, within the limits, is its optimum.

        Such a batch is answered at a glance, without a solver.
        """
        return False

    def with_time_limit(self, limit_s: float) -> Self:
        """The strategy stopping after `limit_s`, or its own time limit if that is shorter; as it is if it has none."""
        return self


@dataclass(frozen=True, kw_only=True)
class TimeLimited(Strategy):
    """A strategy whose search can be stopped."""

    time_limit_s: Annotated[float | None, Doc("seconds that the solver may take; no limit if left out")] = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise InvalidRequestError(
                f"time_limit_s is {self.time_limit_s}; give seconds > 0, or leave it out for no limit",
                param="time_limit_s",
            )

    def with_time_limit(self, limit_s: float) -> Self:
        return replace(self, time_limit_s=limit_s if self.time_limit_s is None else min(limit_s, self.time_limit_s))


def check_gap(gap: float) -> None:
    """Refuses a relative gap that makes no sense.

    Raises:
        InvalidRequestError: the gap is negative or not finite.
    """
    if not 0 <= gap < math.inf:
        raise InvalidRequestError(f"gap is {gap}; give a relative gap >= 0, for example 1e-4", param="gap")
