"""How test requests reach the router: batch size, order, and slots."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import BatchProblem
from apportion.router.errors import ConfigurationError
from apportion.router.evaluation.case import Sample


@dataclass(frozen=True)
class Setting:
    """batch_size: requests in a batch. order: `random`, or `adversarial` (sorted by the cost of the likeliest
    model, so that costly requests share a batch). slots_share: slots of every model as a share of the batch, inf for
    no limit; at least 1 / n_models so that a batch can be placed.

    Raises ConfigurationError for values that make no batch.
    """

    batch_size: int = 256
    order: Literal["random", "adversarial"] = "random"
    slots_share: float = math.inf

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not self.slots_share > 0 or self.order not in ("random", "adversarial"):
            raise ConfigurationError(f"{self}: give batch_size >= 1, slots_share > 0, order random or adversarial")

    def rows(self, sample: Sample, seed: int) -> Iterator[IntArray]:
        """Row numbers, batch by batch."""
        n = len(sample)
        if self.order == "random":
            order = np.random.default_rng([seed, 17]).permutation(n)
        else:
            likeliest = sample.estimates.success.argmax(axis=1)
            order = np.argsort(-sample.estimates.cost_usd[np.arange(n), likeliest], kind="stable")
        for start in range(0, n, self.batch_size):
            yield order[start : start + self.batch_size]

    def slots(self, n_requests: int, n_models: int) -> IntArray:
        """(n_models,) slots of a batch."""
        if math.isinf(self.slots_share):
            return np.full(n_models, n_requests, np.int64)
        return np.full(n_models, math.ceil(max(self.slots_share, 1 / n_models) * n_requests), np.int64)


def batch_problem(
    sample: Sample, rows: IntArray, slots: IntArray, budget_usd: float, *, success: FloatArray | None = None
) -> BatchProblem:
    """The batch problem of these requests by their estimates; `success` replaces the estimates of all requests."""
    estimates = sample.estimates if success is None else replace(sample.estimates, success=success)
    return estimates.rows(rows).problem(slots, budget_usd)
