"""Requests of many accounts, each of which asks for things of its own kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import BatchProblem
from apportion.router.outcomes import read_outcomes
from benchmarks.paths import ROOT

RECORDED = ROOT / "benchmarks/zoo/recorded"
ACCOUNTS = 200
ZIPF = 1.1  # the account of rank r sends 1 / r ** ZIPF as much as the first
OWN_KIND = 0.5  # concentration of an account's tasks: the less, the fewer it has
SYNTHETIC_MODELS = 6


@dataclass(frozen=True)
class Period:
    """Requests that come together.

    Args:
        account: (N,), whose each is.
        success: (N, M), expected.
        cost_usd: (N, M), expected.
    """

    account: IntArray
    success: FloatArray
    cost_usd: FloatArray

    def problem(self, slots: IntArray, budget_usd: float) -> BatchProblem:
        return BatchProblem(self.success, self.cost_usd, slots, budget_usd)


class Synthetic:
    """Models of rising skill and price; an account's requests are about as difficult as each other."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._difficulty = rng.normal(0, 1, ACCOUNTS)
        self._weights = _weights(rng)

    def draw(self, n: int) -> Period:
        rng, m = self._rng, SYNTHETIC_MODELS
        account = rng.choice(ACCOUNTS, n, p=self._weights)
        difficulty = self._difficulty[account][:, None] + rng.normal(0, 0.8, (n, 1))
        success = 1 / (1 + np.exp(difficulty - np.linspace(-0.5, 2.0, m) - rng.normal(0, 0.8, (n, m))))
        cost_usd = np.geomspace(0.1, 10, m) * 1e-6 * rng.lognormal(5.5, 0.7, (n, 1)) * rng.lognormal(0, 0.3, (n, m))
        return Period(account, success, cost_usd)


class Recorded:
    """The zoo's recorded answers: costs as they were, success as the task's mean; an account has few tasks."""

    def __init__(self, rng: np.random.Generator) -> None:
        table = read_outcomes(RECORDED)
        self._rng = rng
        names, task = np.unique(table.tasks, return_inverse=True)
        means = np.array([table.scores[task == one].mean(axis=0) for one in range(len(names))])
        self._success, self._cost_usd = means[task], table.cost_usd
        self._rows = [np.flatnonzero(task == one) for one in range(len(names))]
        self._mix = rng.dirichlet(np.full(len(names), OWN_KIND), ACCOUNTS)
        self._weights = _weights(rng)

    def draw(self, n: int) -> Period:
        rng = self._rng
        account = rng.choice(ACCOUNTS, n, p=self._weights)
        rows = np.array([rng.choice(self._rows[rng.choice(len(self._rows), p=self._mix[one])]) for one in account])
        return Period(account, self._success[rows], self._cost_usd[rows])


SOURCES: dict[str, Callable[[np.random.Generator], Synthetic | Recorded]] = {
    "synthetic": Synthetic,
    "recorded": Recorded,
}


def _weights(rng: np.random.Generator) -> FloatArray:
    weights = rng.permutation(1.0 / np.arange(1, ACCOUNTS + 1) ** ZIPF)
    return np.asarray(weights / weights.sum())
