"""Strategies that look at one request at a time: threshold, per_query, static, price.

`threshold`, `per_query` and `static` know neither slots nor budget. With `limits="repair"` (the default)
their choice is then moved, at the least loss of success, until both hold; with `limits="ignore"` it is
returned as it is, and the assignment is `infeasible` when it breaks a limit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..errors import InvalidRequestError
from .outcome import Assignment, Prices
from .problem import BatchProblem, FloatArray, IntArray
from .repair import enforce_choice
from .summary import no_prices, summarise

Limits = Literal["repair", "ignore"]


def finish(problem: BatchProblem, model: IntArray, name: str, started: float, limits: Limits) -> Assignment:
    """Apply the limits to a choice that was made without them."""
    if limits == "repair":
        return enforce_choice(problem, model, name, started)
    return summarise(problem, model, name, started)


def masked(problem: BatchProblem, score: FloatArray) -> FloatArray:
    """`score` with -inf where the pair is not allowed."""
    return score if problem.allowed is None else np.where(problem.allowed, score, -np.inf)


def best(problem: BatchProblem, score: FloatArray) -> IntArray:
    """(n_requests,) the allowed model with the highest score, the cheaper of equals; -1 if none."""
    score = masked(problem, score)
    top = score.max(axis=1, keepdims=True)
    tied_cost = np.where(score >= top, problem.cost_usd, np.inf)
    return np.where(np.isfinite(top[:, 0]), tied_cost.argmin(axis=1), -1)


@dataclass(frozen=True)
class Threshold:
    """The cheapest model whose success passes `target`; the likeliest model where none does."""

    target: float = 0.7
    limits: Limits = "repair"

    name: ClassVar[str] = "threshold"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        passes = problem.success >= self.target
        if problem.allowed is not None:
            passes &= problem.allowed
        cheapest = np.where(passes, problem.cost_usd, np.inf).argmin(axis=1)
        model = np.where(passes.any(axis=1), cheapest, best(problem, problem.success))
        return finish(problem, model, self.name, started, self.limits)


@dataclass(frozen=True)
class PerQuery:
    """argmax of success - price x cost, one price (success per USD) for every request: the usual router."""

    price: float = 0.0
    limits: Limits = "repair"

    name: ClassVar[str] = "per_query"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        model = best(problem, problem.value - self.price * problem.cost_usd)
        return finish(problem, model, self.name, started, self.limits)


@dataclass(frozen=True)
class Static:
    """One model for every request that may use it; the cheapest allowed one for the others.

    Raises InvalidRequestError for an index that the batch does not have.
    """

    model: int = 0
    limits: Limits = "repair"

    name: ClassVar[str] = "static"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        if not 0 <= self.model < problem.n_models:
            raise InvalidRequestError(
                f"There is no model {self.model}: give an index from 0 to {problem.n_models - 1}.", param="model"
            )
        score = -problem.cost_usd
        score[:, self.model] = 1.0
        return finish(problem, best(problem, score), self.name, started, self.limits)


@dataclass(frozen=True)
class Price:
    """argmax of success - prices x use with the prices carried over from earlier batches, then repair.

    Without `warm` the prices are zero. Needs no solver, so it answers when the solver is late.
    """

    name: ClassVar[str] = "price"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        prices = warm or no_prices(problem)
        charge = prices.budget * problem.cost_usd + problem.load[:, None] * prices.slots
        worth = problem.value - charge
        return enforce_choice(problem, best(problem, worth), self.name, started, prices=prices, worth=worth)
