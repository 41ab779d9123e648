"""A request that waits for its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apportion.router.batch.events import Forecast
from apportion.router.batch.messages import RouteItem
from apportion.router.estimates import Estimates, gathered
from apportion.router.prices import ModelPrice


@dataclass(slots=True)
class Entry:
    """A request at the router, from its arrival to its verdict.

    Args:
        item: the request.
        ingress: that it came from.
        arrived_s: when, by the scheduler's clock.
        estimates: a table that it shares with others; None: it is new.
        row: its own of that table.
        starting: it is its turn; else it is only looked at whether it has to be refused.
        prices: that the estimates were made at.
        predict_s: how long they took.
        forecast: what it was decided by.
        replans: plans that it lost because others of its batch took the money.
        decided: a plan has decided it: it has its verdict, or waits for money.
        cancelled: nobody waits for it any more.
    """

    item: RouteItem
    ingress: str
    arrived_s: float
    estimates: Estimates | None = None
    row: int = 0
    starting: bool = True
    prices: tuple[ModelPrice, ...] = ()
    predict_s: float = 0.0
    forecast: Forecast | None = None
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
