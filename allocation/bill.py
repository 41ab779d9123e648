"""What a plan costs its owner an hour: GPUs in use and bought tokens; and what a GPU more or less would change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from apportion.allocation.gpu_prices import GpuPrice

_FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class GpuCost:
    """GPUs of one type and price. used: hold replicas; idle: do not, and cost as much if they are kept."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    gpu_type: str
    price: GpuPrice | None
    used: int
    idle: int

    @property
    def usd_per_hour(self) -> float | None:
        """Of those in use; None: not known."""
        return None if self.price is None else self.used * self.price.usd_per_hour


@dataclass(frozen=True)
class BoughtCost:
    """What a model from outside is expected to cost."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    model: str
    usd_per_hour: float


@dataclass(frozen=True)
class Bill:
    """tokens_per_hour: prompts and answers of the whole workload."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    gpus: tuple[GpuCost, ...]
    bought: tuple[BoughtCost, ...]
    tokens_per_hour: float

    @property
    def gpus_usd_per_hour(self) -> float | None:
        """All GPUs in use; None where the price of one is not known."""
        known = [cost.usd_per_hour for cost in self.gpus if cost.used]
        return None if None in known else sum(usd for usd in known if usd is not None)

    @property
    def bought_usd_per_hour(self) -> float:
        return sum(cost.usd_per_hour for cost in self.bought)

    @property
    def usd_per_hour(self) -> float | None:
        """GPUs in use and bought tokens; None where the price of one is not known."""
        gpus = self.gpus_usd_per_hour
        return None if gpus is None else gpus + self.bought_usd_per_hour

    @property
    def idle_usd_per_hour(self) -> float:
        """GPUs that hold nothing, as far as their prices are known."""
        return sum(cost.idle * cost.price.usd_per_hour for cost in self.gpus if cost.price is not None)

    @property
    def usd_per_million_tokens(self) -> float | None:
        """At the mix of the workload; None where a price is not known."""
        total = self.usd_per_hour
        return None if total is None or not self.tokens_per_hour else total / self.tokens_per_hour * 1e6


@dataclass(frozen=True)
class Trade:
    """What more GPUs of a type and price would change, all else planned anew: one, or as few as a replica takes.

    more: so many, negative: fewer. success: of the mean success; usd_per_hour: of the bill, None where a price
    is not known; possible: False where there is no such plan.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    gpu_type: str
    price: GpuPrice | None
    more: int
    possible: bool = True
    success: float = 0.0
    usd_per_hour: float | None = None
