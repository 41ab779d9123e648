"""Pacing by one price of a dollar for all batches of a window, learned online.

A batch spends what is worth that price to it, so dear requests take what easy ones leave across batches as within one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from apportion.router.arrays import FloatArray
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
    _seen: deque[_Seen] = field(default_factory=deque, repr=False)
    _n_seen: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        check_positive("memory", self.memory)

    def allowance_usd(self, success: FloatArray, cost_usd: FloatArray, window: WindowState) -> float:
        steps = _steps(success, cost_usd)
        cheapest_usd = float(cost_usd.min(axis=1).sum())
        self._remember(_Seen(window.now, len(success), cheapest_usd, steps))
        to_come = max(self._rate(window) * (window.ends - window.now), len(success))
        each_usd = sum(seen.cheapest_usd for seen in self._seen) / self._n_seen
        self.price = self._price(window.left_usd / to_come - each_usd)
        wanted = cheapest_usd + float(steps.cost_usd[steps.price >= self.price].sum())
        later_usd = (to_come - len(success)) * each_usd
        return _leaving(later_usd, wanted, cost_usd, window)

    def _remember(self, batch: _Seen) -> None:
        self._seen.append(batch)
        self._n_seen += batch.n
        while len(self._seen) > 2 and self._n_seen - self._seen[0].n >= self.memory:
            self._n_seen -= self._seen.popleft().n

    def _price(self, more_usd: float) -> float:
        """The price at which a request spends so much more than its cheapest model costs, on average."""
        prices = np.concatenate([seen.steps.price for seen in self._seen])
        costs = np.concatenate([seen.steps.cost_usd for seen in self._seen])
        order = np.argsort(-prices)
        spent = np.cumsum(costs[order])
        taken = int(np.searchsorted(spent, more_usd * self._n_seen, side="right"))
        if taken == len(prices):
            return 0.0
        return float(prices[order][taken - 1]) if taken else math.inf

    def _rate(self, window: WindowState) -> float:
        """Requests in a unit of time, of late: traffic changes faster than what requests are like."""
        n, since = 0, window.starts
        for seen in reversed(self._seen):
            since = seen.now
            if n >= self.memory / RATE_SHARE or seen is self._seen[0]:
                break
            n += seen.n
        if window.now > since:
            return n / (window.now - since)
        elapsed = window.now - window.starts
        return self._n_seen / elapsed if elapsed > 0 else 0.0


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
        steps = _steps(success, cost_usd)
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

    def _see(self, steps: _Steps) -> None:
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
class _Seen:
    """A batch that was seen: when, how many requests, what its cheapest models cost, and its ways to spend more."""

    now: float
    n: int
    cheapest_usd: float
    steps: _Steps


@dataclass(frozen=True)
class _Steps:
    """Each request's ways to spend more, from its cheapest model up: what a step costs and the price it is worth."""

    price: FloatArray
    cost_usd: FloatArray


def _steps(success: FloatArray, cost_usd: FloatArray) -> _Steps:
    """Upper concave hull of success over cost, for every request: its edges, in no order.

    A request takes an edge as long as a dollar's price is below the edge's slope.
    """
    n, m = success.shape
    order = np.argsort(cost_usd, axis=1, kind="stable")
    cost = np.take_along_axis(cost_usd, order, axis=1)
    value = np.where(np.isfinite(cost), np.take_along_axis(success, order, axis=1), -np.inf)
    at = np.zeros(n, dtype=np.int64)
    rows = np.arange(n)
    # Of several cheapest models the best one.
    ties = cost == cost[:, :1]
    at = np.where(ties, value, -np.inf).argmax(axis=1)
    prices, costs = [], []
    for _ in range(m - 1):
        more_usd = cost - cost[rows, at][:, None]
        gain = value - value[rows, at][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where((more_usd > 0) & (gain > 0), gain / more_usd, -np.inf)
        best = slope.argmax(axis=1)
        steepest = slope[rows, best]
        go = np.flatnonzero(steepest > 0)
        if not go.size:
            break
        prices.append(steepest[go])
        costs.append(more_usd[go, best[go]])
        at[go] = best[go]
    if not prices:
        return _Steps(np.zeros(0), np.zeros(0))
    return _Steps(np.concatenate(prices), np.concatenate(costs))


def _leaving(later_usd: float, wanted_usd: float, cost_usd: FloatArray, window: WindowState) -> float:
    """What is wanted, as long as the requests to come can still have their cheapest models."""
    affordable_usd = window.left_usd - max(0.0, later_usd)
    return at_least_the_cheapest(min(wanted_usd * (1 + ROUNDING), affordable_usd), cost_usd, window)


def _price_half_way(steps: _Steps) -> float:
    order = np.argsort(-steps.price)
    spent = np.cumsum(steps.cost_usd[order])
    middle = int(np.searchsorted(spent, spent[-1] / 2))
    return float(steps.price[order][middle])
