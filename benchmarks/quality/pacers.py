"""How much of a day's money the next batch may spend: a cap for each batch, what is due so far, one learned price."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from router.assignment.pricing import budget_price
from router.assignment.problem import FloatArray
from router.assignment.program import Program


@dataclass(frozen=True)
class Window:
    """The day's money at one moment; `now` runs from `starts` to `ends`, counted in requests."""

    budget_usd: float
    committed_usd: float
    starts: float
    ends: float
    now: float


class Pacer(Protocol):
    """Decides what a batch may spend, USD; may learn from batch to batch.

    success and cost_usd are the batch's, (n_requests, n_models).
    """

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: Window) -> float: ...


@dataclass(frozen=True)
class PerBatch:
    """A fixed cap for every batch: what one leaves unspent helps no other."""

    usd_per_request: float

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: Window) -> float:
        return len(success) * self.usd_per_request


@dataclass(frozen=True)
class CarryOver:
    """Money falls due evenly with the requests; what is left unspent stays for the batches to come."""

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: Window) -> float:
        share = (window.now + len(success) - window.starts) / (window.ends - window.starts)
        return max(window.budget_usd * share - window.committed_usd, 0.0)


@dataclass
class ShadowPrice:
    """One price of cost for all batches, moved by how far spending is off an even course over what is left.

    Dual mirror descent with entropy (Balseiro, Lu, Mirrokni 2023, "The Best of Many Worlds: Dual Mirror Descent for
    Online Allocation Problems"). Starts at the price that suits the first batch alone.
    """

    gain: float = 0.3
    price: float | None = None
    _last: Window | None = None

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: Window) -> float:
        if self.price is None:
            due = (window.budget_usd - window.committed_usd) * len(success) / (window.ends - window.now)
            self.price = max(batch_price(success, cost_usd, due), 1e-12)
        elif self._last is not None and window.now > self._last.now:
            even = (self._last.budget_usd - self._last.committed_usd) / (self._last.ends - self._last.now)
            even *= window.now - self._last.now
            off = (window.committed_usd - self._last.committed_usd - even) / max(even, 1e-12)
            self.price *= math.exp(self.gain * float(np.clip(off, -1, 1)))
        self._last = window
        return at_price(success, cost_usd, self.price)


@dataclass(frozen=True)
class FixedPrice:
    """One price of cost that never moves, as a router tuned beforehand has it."""

    price: float

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: Window) -> float:
        return at_price(success, cost_usd, self.price)


def at_price(success: FloatArray, cost_usd: FloatArray, price: float) -> float:
    """What the batch spends when every request takes what is worth most at a price of cost, USD."""
    model = (success - price * cost_usd).argmax(axis=1)
    return float(cost_usd[np.arange(len(model)), model].sum()) * (1 + 1e-9)


def batch_price(success: FloatArray, cost_usd: FloatArray, budget_usd: float) -> float:
    """The price of cost at which these requests spend the budget."""
    n, m = success.shape
    return budget_price(Program(success, cost_usd, np.ones(n), np.full(m, math.inf), budget_usd), np.zeros(m))


def pacers(usd_per_request: float, yesterday: float) -> dict[str, Callable[[], Pacer]]:
    """Makers of a fresh pacer for every policy; `yesterday`: the price that other requests would have needed."""
    return {
        "fixed_cap": lambda: PerBatch(usd_per_request),
        "carry_over": CarryOver,
        "shadow_price": ShadowPrice,
        "yesterdays_price": lambda: FixedPrice(yesterday),
    }
