"""A request that waits for its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apportion.router.batch.events import Forecast
from apportion.router.batch.messages import RouteItem
from apportion.router.unpriced import Unpriced, gathered


@dataclass(slots=True)
class Entry:
    """A request at the router, from its arrival to its verdict.

    Args:
        item: the request.
        ingress: that it came from.
        arrived_s: when, by the scheduler's clock.
        unpriced: what is expected of it, in a table that it shares with others.
        row: its own of that table.
        starting: it is its turn; else it is only looked at whether it has to be refused.
        forecast: what it was decided by.
        replans: plans that it lost because others of its batch took the money.
        decided: a plan has decided it: it has its verdict, or waits for money or for a model to wake.
        wake_by_s: until when it waits for a sleeping model; None: it has not had to.
        cancelled: nobody waits for it any more.
    """

    item: RouteItem
    ingress: str
    arrived_s: float
    unpriced: Unpriced
    row: int = 0
    starting: bool = True
    forecast: Forecast | None = None
    replans: int = 0
    decided: bool = False
    wake_by_s: float | None = None
    cancelled: bool = False

    def left_s(self, now_s: float) -> float:
        """What is left of its time; when there is nothing, its ingress tells the client."""
        return self.item.timeout_s - (now_s - self.arrived_s)


def unpriced_of(entries: Sequence[Entry]) -> Unpriced:
    """What is expected of the entries in their order, from then on in one table of their own."""
    together = gathered([(entry.unpriced, entry.row) for entry in entries])
    for row, entry in enumerate(entries):
        entry.unpriced, entry.row = together, row
    return together
