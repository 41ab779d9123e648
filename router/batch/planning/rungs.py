"""The rungs that a batch is solved on: `mip` (or the strategy that was asked for), else `price`, else `greedy`.

When the solver fails or is late the plan is made a rung lower, and every decision says on which. The fourth, `static`,
is a plan without predictions: see `planner`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.assignment import (
    Assignment,
    BatchProblem,
    Greedy,
    Mip,
    PerQuery,
    Price,
    Prices,
    Status,
    Strategy,
    assign,
)
from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.planning.search import searching

Solve = Callable[[BatchProblem, Strategy], Awaitable[Assignment]]


class Rungs:
    """Solves batches on the highest rung that works.

    Args:
        solve: the solver's answer, in a process of its own.
        part: guards the calls.
        n_models: models of every problem.
        time_limit_s: of what is solved here instead.
    """

    def __init__(self, solve: Solve, part: Part, n_models: int, time_limit_s: float) -> None:
        self._solve = solve
        self._part = part
        self._n_models = n_models
        self._time_limit_s = time_limit_s
        self._last_prices: dict[str, Prices] = {}

    @property
    def state(self) -> BreakerState:
        """Whether the solver is asked: its breaker's state."""
        return self._part.state

    async def assign(self, problem: BatchProblem, strategy: Strategy) -> tuple[Assignment, str]:
        """The solver's answer and its rung, or the best that can be had here and now if it does not come."""
        if strategy.maximises_value:
            favourites = assign(problem, PerQuery(price=0.0, limits="ignore"))
            if favourites.status is not Status.infeasible:
                # Everyone has the model that is best for them: an optimum that needs no solver.
                return replace(favourites, strategy=strategy.name, bound=favourites.objective, gap=0.0), strategy.name
        solved = await self._part.ask(lambda: self._checked(problem, strategy))
        if solved is not None and solved.status is not Status.infeasible:
            self._last_prices[strategy.name] = solved.prices
            return solved, solved.strategy
        # Moving requests until all limits hold may take long where they are tight.
        price, warm = Price(time_limit_s=self._time_limit_s), self._last_prices.get(strategy.name)
        priced = await searching(partial(assign, problem, price, warm=warm))
        if priced.status is not Status.infeasible:
            return priced, "price"
        greedy = partial(assign, problem, Greedy(time_limit_s=self._time_limit_s))
        return await searching(greedy), "greedy"

    async def try_again(self) -> None:
        """Asks a solver that was left alone for long enough, so that no request has to."""
        if self._part.state is BreakerState.half_open:
            one = np.ones((1, self._n_models))
            problem = BatchProblem(success=one, cost_usd=one, slots=np.ones(self._n_models, dtype=np.int64))
            await self._part.ask(lambda: self._checked(problem, Mip()))

    async def _checked(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        assignment = await self._solve(problem, strategy)
        if not is_assignment(problem, assignment.model):
            raise ValueError(f"the solver's answer is none for this batch: {assignment.model.shape}")
        return assignment


def is_assignment(problem: BatchProblem, model: IntArray) -> bool:
    """Whether it names for every request a model that may answer it, or none (-1)."""
    if model.shape != (problem.n_requests,) or model.min() < -1 or model.max() >= problem.n_models:
        return False
    placed = np.flatnonzero(model >= 0)
    return problem.allowed is None or bool(problem.allowed[placed, model[placed]].all())
