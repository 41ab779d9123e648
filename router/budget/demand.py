"""What requests would spend at each price of a dollar, by their ways to spend more than their cheapest model costs."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from apportion.router.arrays import FloatArray


@dataclass(frozen=True)
class Steps:
    """Each request's ways to spend more, from its cheapest model up: what a step costs and the price it is worth."""

    price: FloatArray
    cost_usd: FloatArray

    @classmethod
    def of(cls, success: FloatArray, cost_usd: FloatArray) -> Steps:
        """Upper concave hull of success over cost, for every request: its edges, in no order.

        A request takes an edge as long as a dollar's price is below the edge's slope.

        Args:
            success: (n_requests, n_models), or any other value that is to be had for money.
            cost_usd: (n_requests, n_models), `inf` where a model may not answer; one finite value a row at least.
        """
        n, m = success.shape
        order = np.argsort(cost_usd, axis=1, kind="stable")
        cost = np.take_along_axis(cost_usd, order, axis=1)
        value = np.where(np.isfinite(cost), np.take_along_axis(success, order, axis=1), -np.inf)
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
            return cls(np.zeros(0), np.zeros(0))
        return cls(np.concatenate(prices), np.concatenate(costs))


@dataclass(frozen=True)
class Seen:
    """A batch that was seen: how many requests, what their cheapest models cost together, and their steps."""

    n: int
    cheapest_usd: float
    steps: Steps

    @classmethod
    def of(cls, success: FloatArray, cost_usd: FloatArray) -> Seen:
        """Of a batch as `Steps.of` takes it."""
        return cls(len(success), float(cost_usd.min(axis=1).sum()), Steps.of(success, cost_usd))


S = TypeVar("S", bound=Seen)


class Demand(Generic[S]):
    """The latest batches, which stand for those to come.

    Args:
        memory: requests that are remembered; the last two batches are, however large.
        fresh: prices are those of a moment since which no more than this share of the requests is new.

    Attributes:
        seen: the batches, oldest first.
        n: their requests.
        cheapest_usd: what these would cost on their cheapest models.
    """

    def __init__(self, memory: int, fresh: float = 0.0) -> None:
        self._memory, self._fresh = memory, fresh
        self.seen: deque[S] = deque()
        self.n, self.cheapest_usd = 0, 0.0
        self._new = 0
        self._prices, self._spent = np.zeros(0), np.zeros(0)

    def add(self, batch: S) -> None:
        """Remembers a batch, and forgets the oldest beyond the memory; two are kept, for they tell a rate."""
        self.seen.append(batch)
        self.n += batch.n
        self._new += batch.n
        self.cheapest_usd += batch.cheapest_usd
        while len(self.seen) > 2 and self.n - self.seen[0].n >= self._memory:
            oldest = self.seen.popleft()
            self.n -= oldest.n
            self.cheapest_usd -= oldest.cheapest_usd

    def price(self, usd_per_request: float) -> float:
        """Value a dollar has to bring so that the requests spend so much each, on average; 0: everything is wanted."""
        if self._new > self._fresh * self.n:
            prices = np.concatenate([seen.steps.price for seen in self.seen])
            costs = np.concatenate([seen.steps.cost_usd for seen in self.seen])
            order = np.argsort(-prices)
            self._prices, self._spent, self._new = prices[order], np.cumsum(costs[order]), 0
        taken = int(np.searchsorted(self._spent, usd_per_request * self.n - self.cheapest_usd, side="right"))
        if taken == len(self._prices):
            return 0.0
        return float(self._prices[taken - 1]) if taken else math.inf
