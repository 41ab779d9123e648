"""What a GPU costs an hour: prices by GPU type and kind, bought ones and such of own hardware.

In `cluster.yaml`:

    gpu_prices:
      H100: {reserved: 2.1, spot: 1.3}
      A100-80GB: {own: {purchase_usd: 18000, years: 4, power_kw: 0.6, usd_per_kwh: 0.2}}
    nodes:
      - {name: a, gpu_type: H100, n_gpus: 8, price: reserved}
      - {name: b, gpu_type: A100-80GB, n_gpus: 8}             # the one kind that there is
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from apportion.router.checked import Section, nearest

HOURS_A_YEAR = 365.25 * 24


@dataclass(frozen=True)
class GpuPrice:
    """usd_per_hour: of one GPU, used or not; kind: what it is called, e.g. spot."""

    kind: str
    usd_per_hour: float


GpuKind = tuple[str, GpuPrice | None]
"""A GPU type at a price; None: not known."""


class OwnHardware(Section):
    """A GPU that was bought, with its part of the machine around it."""

    purchase_usd: float = Field(ge=0, allow_inf_nan=False, description="Price of a GPU with its part of the node.")
    years: float = Field(gt=0, allow_inf_nan=False, description="Years over which the purchase is written off.")
    power_kw: float = Field(0, ge=0, allow_inf_nan=False, description="Mean power of a GPU and its part of the node.")
    usd_per_kwh: float = Field(0, ge=0, allow_inf_nan=False, description="Price of electricity, cooling included.")
    usd_per_hour: float = Field(0, ge=0, allow_inf_nan=False, description="Other costs of running a GPU an hour.")

    @property
    def amortised_usd_per_hour(self) -> float:
        """All of it, spread over every hour of those years."""
        return self.purchase_usd / (self.years * HOURS_A_YEAR) + self.power_kw * self.usd_per_kwh + self.usd_per_hour


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)] | OwnHardware
PricesByType = dict[str, dict[str, Price]]


def price_named(kinds: Mapping[str, Price], kind: str | None, gpu_type: str) -> GpuPrice | None:
    """The price of a node's GPUs.

    Args:
        kinds: what its GPU type costs, by kind; empty: not known.
        kind: the one that the node names; None: the only one.

    Raises:
        ValueError: the kind is not there, or none is named and there are several.
    """
    if kind is None:
        if len(kinds) > 1:
            raise ValueError(f"gpu_prices has {', '.join(kinds)} of {gpu_type}; name one of them")
        return next((_price(name, price) for name, price in kinds.items()), None)
    if kind not in kinds:
        raise ValueError(f"gpu_prices has no {kind!r} of {gpu_type}{nearest(kind, kinds)}; add it, or name another")
    return _price(kind, kinds[kind])


def _price(kind: str, price: Price) -> GpuPrice:
    return GpuPrice(kind, price.amortised_usd_per_hour if isinstance(price, OwnHardware) else float(price))
