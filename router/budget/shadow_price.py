"""Pacing by one price of a dollar for all batches of a window, learned online.

A batch spends what is worth that price to it, so dear requests take what easy ones leave across batches as within one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.budget.demand import Demand, Seen, Steps
from apportion.router.budget.pacing import ROUNDING, WindowState, at_least_the_cheapest, check_positive
from apportion.router.checked import Doc

RATE_SHARE = 8  # of the remembered requests, one in so many says how fast they come


@dataclass
class Resolving:
    """The price at which requests like the latest ones, arriving as fast, would spend the rest of the window's money.

    Solved anew for each batch (re-solving; Agrawal, Wang, Ye: A Dynamic Near-Optimal Algorithm for Online Linear
    Programming, Operations Research 62(4), 2014). With one budget row that is a sort, no program.
    """

    memory: Annotated[int, Doc("how many of the latest requests stand for those to come")] = 2048
    price: float | None = None
    _demand: Demand[_SeenAt] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("memory", self.memory)
        self._demand = Demand(self.memory)

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        batch = Seen.of(success, cost_usd)
        self._demand.add(_SeenAt(batch.n, batch.cheapest_usd, batch.steps, window.now))
        to_come = max(self._rate(window) * (window.ends - window.now), batch.n)
        self.price = self._demand.price(window.left_usd / to_come)
        wanted = batch.cheapest_usd + float(batch.steps.cost_usd[batch.steps.price >= self.price].sum())
        later_usd = (to_come - batch.n) * self._demand.cheapest_usd / self._demand.n
        return _leaving(later_usd, wanted, cost_usd, window)

    def _rate(self, window: WindowState) -> float:
        """Requests in a unit of time, of late: traffic changes faster than what requests are like."""
        n, since = 0, window.starts
        for seen in reversed(self._demand.seen):
            since = seen.now
            if n >= self.memory / RATE_SHARE or seen is self._demand.seen[0]:
                break
            n += seen.n
        if window.now > since:
            return n / (window.now - since)
        elapsed = window.now - window.starts
        return self._demand.n / elapsed if elapsed > 0 else 0.0


@dataclass
class DualDescent:
    """The price moves a little after each batch: up when spending is ahead of its course, down when it is behind.

    Dual mirror descent with entropy (Balseiro, Lu, Mirrokni: The Best of Many Worlds: Dual Mirror Descent for Online
    Allocation Problems, Operations Research 71(1), 2023): the price's logarithm moves with the difference between what
    was spent and what the rest of the window would have spent evenly, so that its unit does not matter and it stays
    positive.
    """

    gain: Annotated[
        float, Doc("how far the price's logarithm moves if spending is at twice its course for `reaction`")
    ] = 0.5
    reaction: Annotated[float, Doc("share of the window after which a deviation is answered")] = 0.02
    price: Annotated[
        float | None,
        Doc(
            "expected good answers a USD to begin with; if left out, the price at which the first batch spends "
            "half-way between its cheapest and its best models"
        ),
    ] = None
    _last: WindowState | None = field(default=None, repr=False)
    _cheapest_usd: float = field(default=0.0, repr=False)  # what this window's requests would have cost at least
    _lowest: float = field(default=math.inf, repr=False)
    _highest: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        check_positive("gain", self.gain)
        check_positive("reaction", self.reaction)
        if self.price is not None:
            check_positive("price", self.price)

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        steps = Steps.of(success, cost_usd)
        self._see(steps)
        if self._last is not None and self._last.starts == window.starts:
            self._learn(self._last, window)
        else:  # a new window starts with the price that the last one ended with
            self._cheapest_usd = 0.0
        if self.price is None and steps.price.size:
            self.price = _price_half_way(steps)
        self._last = window
        cheapest_usd = float(cost_usd.min(axis=1).sum())
        self._cheapest_usd += cheapest_usd
        elapsed = window.now - window.starts
        later_usd = self._cheapest_usd / elapsed * (window.ends - window.now) if elapsed > 0 else 0.0
        wanted = cheapest_usd + float(steps.cost_usd[steps.price > (self.price or 0.0)].sum())
        return _leaving(later_usd - cheapest_usd, wanted, cost_usd, window)

    def _see(self, steps: Steps) -> None:
        """The range in which a price makes a difference; beyond it, it would only take longer to come back."""
        if steps.price.size:
            self._lowest = min(self._lowest, float(steps.price.min()))
            self._highest = max(self._highest, float(steps.price.max()))

    def _learn(self, last: WindowState, window: WindowState) -> None:
        if self.price is None or window.now <= last.now:
            return
        even_usd_per_time = last.left_usd / max(last.ends - last.now, 1e-12)
        even_usd = even_usd_per_time * (window.now - last.now)
        scale_usd = even_usd_per_time * self.reaction * (window.ends - window.starts)
        spent_usd = window.committed_usd - last.committed_usd
        move = self.gain * (spent_usd - even_usd) / scale_usd if scale_usd > 0 else 1.0
        price = self.price * math.exp(min(1.0, max(-1.0, move)))
        if self._highest:
            price = min(max(price, self._lowest / 2), self._highest * 2)
        self.price = price


@dataclass(frozen=True)
class _SeenAt(Seen):
    """A batch and when it was seen."""

    now: float


def _leaving(later_usd: float, wanted_usd: float, cost_usd: FloatArray, window: WindowState) -> float:
    """What is wanted, as long as the requests to come can still have their cheapest models."""
    affordable_usd = window.left_usd - max(0.0, later_usd)
    return at_least_the_cheapest(min(wanted_usd * (1 + ROUNDING), affordable_usd), cost_usd, window)


def _price_half_way(steps: Steps) -> float:
    order = np.argsort(-steps.price)
    spent = np.cumsum(steps.cost_usd[order])
    middle = int(np.searchsorted(spent, spent[-1] / 2))
    return float(steps.price[order][middle])
