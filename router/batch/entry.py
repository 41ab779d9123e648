"""A request that waits for its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from apportion.router.batch.messages import RouteItem
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice


@dataclass(slots=True)
class Entry:
    """A request at the router, from its arrival to its verdict.

    `arrived_s` is of the scheduler's clock. `decided` once it has its verdict; `cancelled` once nobody waits for it.
    `prices` are those of its estimates.
    `replans` counts the plans that it lost because others of its batch took the money.
    """

    item: RouteItem
    ingress: str
    arrived_s: float
    estimates: Estimates | None = None
    prices: tuple[ModelPrice, ...] = ()
    predict_s: float = 0.0
    replans: int = 0
    decided: bool = False
    cancelled: bool = False

    def left_s(self, now_s: float) -> float:
        """What is left of its time; when there is nothing, its ingress tells the client."""
        return self.item.timeout_s - (now_s - self.arrived_s)
