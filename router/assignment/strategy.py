"""The interface of every strategy."""

from __future__ import annotations

from typing import ClassVar, Protocol

from .outcome import Assignment, Prices
from .problem import BatchProblem


class Strategy(Protocol):
    """A way to choose: a frozen dataclass of its options."""

    name: ClassVar[str]

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        """The assignment; `warm` are prices of an earlier batch, `seed` fixes random draws."""
        ...
