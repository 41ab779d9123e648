"""Strategies that look at one request at a time: threshold, per_query, static, price.

`threshold`, `per_query` and `static` know neither slots nor budget. With `limits="repair"` (the default)
their choice is then moved, at the least loss of success, until both hold; with `limits="ignore"` it is
returned as it is, and the assignment is `infeasible` when it breaks a limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program
from apportion.router.assignment.repair import enforce_choice
from apportion.router.assignment.strategy import TimeLimited
from apportion.router.assignment.summary import no_prices, summarise
from apportion.router.checked import Doc
from apportion.router.errors import InvalidRequestError

Limits = Literal["repair", "ignore"]


@dataclass(frozen=True, kw_only=True)
class LimitsAfterwards(TimeLimited):
    """What becomes of a choice that was made without the limits.

    The solver is asked, for as long as the time limit allows, only where moving requests finds no assignment.
    """

    limits: Annotated[Limits, Doc("repair the choice where it breaks budget or slots, or ignore them")] = "repair"

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.limits not in get_args(Limits):
            known = ", ".join(get_args(Limits))
            raise InvalidRequestError(f"limits is {self.limits!r}; use one of {known}", param="limits")
        super().__post_init__()

    def finish(self, problem: BatchProblem, model: IntArray) -> Assignment:
        """The choice (n_requests,) as an assignment."""
        if self.limits == "repair":
            return enforce_choice(problem, model, self.name, time_limit_s=self.time_limit_s)
        return summarise(problem, model, self.name)


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
class Threshold(LimitsAfterwards):
    """The cheapest model whose success reaches `target`, and the likeliest one where none does.

    Raises:
        InvalidRequestError: the target is negative or not finite.
    """

    target: Annotated[float, Doc("success that is enough, >= 0; above 1 none is")] = 0.7

    name: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.target < math.inf:
            raise InvalidRequestError(f"target is {self.target}; give a success from 0 to 1", param="target")

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        passes = problem.success >= self.target
        if problem.allowed is not None:
            passes &= problem.allowed
        cheapest = np.where(passes, problem.cost_usd, np.inf).argmin(axis=1)
        model = np.where(passes.any(axis=1), cheapest, best(problem, problem.success))
        return self.finish(problem, model)


@dataclass(frozen=True)
class PerQuery(LimitsAfterwards):
    """The model with the highest success - price x cost, at one price for every request: the usual router.

    Raises:
        InvalidRequestError: the price is negative or not finite.
    """

    price: Annotated[float, Doc("success that a USD has to buy, >= 0")] = 0.0

    name: ClassVar[str] = "per_query"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.price < math.inf:
            raise InvalidRequestError(f"price is {self.price}; give success per USD, >= 0", param="price")

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        model = best(problem, problem.value - self.price * problem.cost_usd)
        return self.finish(problem, model)


@dataclass(frozen=True)
class Static(LimitsAfterwards):
    """One model for every request that may use it; the cheapest allowed one for the others.

    Raises:
        InvalidRequestError: the batch has no model of that index.
    """

    model: Annotated[int, Doc("index of the model, from 0")] = 0

    name: ClassVar[str] = "static"

    def check_model(self, n_models: int) -> None:
        """Refuses an index that does not exist.

        Raises:
            InvalidRequestError: there is no model of that index.
        """
        if not 0 <= self.model < n_models:
            raise InvalidRequestError(
                f"there is no model {self.model}; give an index from 0 to {n_models - 1}", param="model"
            )

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        self.check_model(problem.n_models)
        score = -problem.cost_usd
        score[:, self.model] = 1.0
        return self.finish(problem, best(problem, score))


@dataclass(frozen=True)
class Price(TimeLimited):
    """The model with the highest success - prices x use, at the prices of earlier batches, then repair.

    Without `warm` the prices are zero. The solver is asked as in `LimitsAfterwards`.
    """

    name: ClassVar[str] = "price"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        prices = warm or no_prices(problem)
        worth = Program.of(problem).reduced(prices)
        return enforce_choice(
            problem, best(problem, worth), self.name,
            prices=prices, worth=worth, time_limit_s=self.time_limit_s,
        )  # fmt: skip
