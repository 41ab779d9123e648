"""The policies of the pacing experiment: the library's pacers, and the price that a router tuned beforehand has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.budget.pacing import ROUNDING, CarryOver, Pacer, PerBatch, WindowState
from apportion.router.budget.shadow_price import DualDescent, Resolving


@dataclass(frozen=True)
class FixedPrice:
    """One price of cost that never moves."""

    price: float

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        """What the batch spends when every request takes what is worth most at the price."""
        model = (success - self.price * cost_usd).argmax(axis=1)
        spent = float(cost_usd[np.arange(len(model)), model].sum())
        return min(spent * (1 + ROUNDING), window.left_usd)


def pacers(usd_per_request: float, yesterday: float) -> dict[str, Callable[[], Pacer]]:
    """Makers of a fresh pacer for every policy; `yesterday`: the price that other requests would have needed."""
    return {
        "fixed_cap": lambda: PerBatch(usd_per_request),
        "carry_over": CarryOver,
        "shadow_price": Resolving,
        "shadow_price_descent": DualDescent,
        "yesterdays_price": lambda: FixedPrice(yesterday),
    }
