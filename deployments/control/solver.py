"""The Solver: assigns batches in a process of its own, so that a long search never holds up the event loop."""

from __future__ import annotations

from ray import serve

from apportion.deployments.control.watch import Watch
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.assignment import Assignment, BatchProblem, Prices, Strategy, assign, warm_up


@serve.deployment
class Solver:
    """Solves one batch at a time, each from the prices of the one before."""

    def __init__(self, time_limit_s: float) -> None:
        log_to_serve()
        self._watch = Watch("solver")
        self._time_limit_s = time_limit_s
        self._prices: dict[str, Prices] = {}
        warm_up()

    def solve(self, problem: BatchProblem, strategy: Strategy) -> Assignment:
        """The assignment with its bound, by the configured deadline or the strategy's own if that is nearer."""
        bounded = strategy.with_time_limit(self._time_limit_s)
        with self._watch.call():
            assignment = assign(problem, bounded, warm=self._prices.get(strategy.name))
        self._prices[strategy.name] = assignment.prices
        return assignment

    def check_health(self) -> None:
        """Raises: UnavailableError: it hangs, so that Serve starts another in its place."""
        self._watch.check()
