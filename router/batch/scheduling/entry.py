"""A request that waits for its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apportion.router.batch.messages import RouteItem
from apportion.router.estimates import Estimates, gathered
from apportion.router.prices import ModelPrice


@dataclass(slots=True)
class Entry:
    """A request at the router, from its arrival to its verdict.

    `arrived_s` is of the scheduler's clock. `decided` once it has its verdict; `cancelled` once nobody waits for it.
    Its estimates are the `row` of a table that it shares with others; `prices` are those that they were made at.
    `starting` if it is its turn, else it is only looked at whether it has to be refused.
    `replans` counts the plans that it lost because others of its batch took the money.
    """

    item: RouteItem
    ingress: str
    arrived_s: float
    estimates: Estimates | None = None
    row: int = 0
    starting: bool = True
    prices: tuple[ModelPrice, ...] = ()
    predict_s: float = 0.0
    replans: int = 0
    decided: bool = False
    cancelled: bool = False

    def left_s(self, now_s: float) -> float:
        """What is left of its time; when there is nothing, its ingress tells the client."""
        return self.item.timeout_s - (now_s - self.arrived_s)


def estimates_of(entries: Sequence[Entry]) -> Estimates:
    """The entries' estimates in their order, from then on in one table of their own."""
    together = gathered([(entry.estimates, entry.row) for entry in entries if entry.estimates is not None])
    for row, entry in enumerate(entries):
        entry.estimates, entry.row = together, row
    return together
