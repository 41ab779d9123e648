"""The Solver: assigns batches in a process of its own, so that a long search never holds up the event loop."""

from __future__ import annotations

import dataclasses

from ray import serve

from apportion.deployments.wire.logs import log_to_serve
from apportion.router.assignment import Assignment, BatchProblem, Prices, Strategy, assign, warm_up


@serve.deployment
class Solver:
    """Solves one batch at a time, each from the prices of the one before."""

    def __init__(self, time_limit_s: float) -> None:
        log_to_serve()
        self._time_limit_s = time_limit_s
        self._prices: dict[str, Prices] = {}
        warm_up()

    def solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        """The assignment with its bound, by the configured deadline or the strategy's own if that is nearer."""
        if hasattr(strategy, "time_limit_s"):
            asked_s = strategy.time_limit_s
            limit_s = self._time_limit_s if asked_s is None else min(asked_s, self._time_limit_s)
            strategy = dataclasses.replace(strategy, time_limit_s=limit_s)  # type: ignore[type-var]
        name = type(strategy).__name__
        assignment = assign(problem, strategy, warm=self._prices.get(name))
        self._prices[name] = assignment.prices
        return assignment
