"""The batch room of a configuration: its parts, put together."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.routing import RoutingConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.drift import Drift
from apportion.deployments.control.speeds import Stopwatch
from apportion.router.assignment import Assignment, BatchProblem, Strategy
from apportion.router.batch.events import Events
from apportion.router.batch.guards.parts import Part
from apportion.router.batch.messages import Told
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.money.steady_clock import SteadyClock
from apportion.router.batch.planning.planner import BatchPlanner
from apportion.router.batch.planning.rungs import Rungs, Solve
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.bulk_share import BulkShare
from apportion.router.batch.reservations.conversations import Conversations
from apportion.router.batch.reservations.fleet import Fleet
from apportion.router.batch.reservations.reservations import Reservations
from apportion.router.batch.scheduling.chronicle import Chronicle
from apportion.router.batch.scheduling.decider import Decider
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.batch.scheduling.preview import Preview
from apportion.router.batch.scheduling.scheduler import BatchLimits, Scheduler
from apportion.router.batch.scheduling.second_stage import SecondStageDecider
from apportion.router.errors import UnavailableError

SOLVER_GRACE_S = 0.25  # beyond the solver's own time limit
PREVIEW_SOLVE_S = 0.1  # less than the grace, so that no batch behind a preview is late
SETTLE_S = 5.0  # a new router waits so long for the replicas' heartbeats before it says that there are none
Clock = Callable[[], float]


class BatchRoom:
    """Everything between a request's arrival at the router and its verdict.

    Args:
        solve: the solver's answer.
        tell: takes a request's verdict.
        clock: seconds of a monotonic clock.
        wall_clock: seconds since 1970.
        service: the name of which only the newest room may use the ledger; None: there is no such order.
    """

    def __init__(
        self,
        config: ServiceConfig,
        solve: Solve,
        tell: Callable[[Entry, Told], None],
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        service: str | None = None,
    ) -> None:
        solve_timeout_s = config.solver.time_limit_s + SOLVER_GRACE_S
        self._models, self._names, self.knowledge = config.models, config.names, Knowledge.of(config)
        self.rungs = Rungs(solve, Part("solver", solve_timeout_s, clock), len(config.names), solve_timeout_s)
        self.planner = BatchPlanner(self.rungs)
        self.events = Events()
        self.drift = Drift(
            config.names,
            self.knowledge,
            None if config.feedback is None else config.feedback.score_key,
            [one.external is not None and one.external.tokenizer is None for one in config.columns],
        )
        self.events.subscribe(self.drift)
        self.stopwatch = Stopwatch(config.names, clock)
        self.events.subscribe(self.stopwatch)
        previews = Part("solver of previews", solve_timeout_s, clock)
        self.preview = Preview(
            BatchPlanner(Rungs(_briefly(solve), previews, len(config.names), solve_timeout_s)),
            self.drift.lengths,
            self.stopwatch.speeds,
            config.ingress.route.timeout_s,
        )
        sleepers = [model.name for model in config.models if model.may_sleep]
        expected = [model.name for model in config.models if model.groups and not model.may_sleep]
        bulk = None if config.bulk is None else BulkShare(config.model_names, config.bulk.rule())
        fleet = Fleet(config.model_names, clock, expected=expected, sleepers=sleepers, bulk=bulk)
        sessions = Conversations(config.sessions.max_sessions, config.sessions.ttl_s, clock)
        self.chronicle = Chronicle(self.events, wall_clock, clock, fleet.running_with)
        self.reservations = Reservations(
            fleet, spending(config, wall_clock, clock, service), sessions, clock, self.chronicle.settled
        )
        limits = batch_limits(config)
        decider = Decider(
            self.planner,
            self.reservations,
            self.drift.lengths,
            self.stopwatch.speeds,
            clock,
            patience_s=limits.aging_s,
            settle_s=SETTLE_S,
            events=self.events,
            wall_clock=wall_clock,
        )
        second = SecondStageDecider(
            Rungs(solve, Part("solver of second stages", solve_timeout_s, clock), len(config.models), solve_timeout_s),
            self.planner.batch_ids,
            self.reservations,
            self.drift.lengths,
            clock,
        )
        self.scheduler = Scheduler(
            self.policy(config.routing), decider, self.reservations, limits, tell, clock, self.preview, second
        )
        self.limit(config.routing)

    def policy(self, routing: RoutingConfig) -> Policy:
        """What batches are planned by under this configuration of the routing."""
        return routing.policy(self._models, self.knowledge.by_name_only, self.knowledge.cascades)

    def limit(self, routing: RoutingConfig) -> None:
        """From now on the configuration's limits on what is in flight hold."""
        limits = (one.limit() for one in routing.concurrency_limits)
        self.reservations.fleet.concurrency.set_limits(limits, self._names)

    def parts(self) -> dict[str, str]:
        """Whether the solver is asked: its breaker's state."""
        return {"solver": self.rungs.state}

    def check_newest(self) -> None:
        """Raises: UnavailableError: a newer router has taken over; this one decides nothing more."""
        if self.reservations.spending.superseded:
            raise UnavailableError("a newer router has taken over; this one decides nothing more")

    async def try_parts(self) -> None:
        """Asks parts that were left alone for long enough, so that no request has to, and none has to come for it."""
        await self.rungs.try_again()


def _briefly(solve: Solve) -> Solve:
    def within(problem: BatchProblem, strategy: Strategy) -> Awaitable[Assignment]:
        return solve(problem, strategy.with_time_limit(PREVIEW_SOLVE_S))

    return within


def spending(config: ServiceConfig, wall_clock: Clock, clock: Clock, service: str | None) -> Spending:
    """The money of a configuration; without a `budget` section only jobs have limits that outlive the process."""
    longest_s, budget = config.dispatch.request_timeout_s, config.budget
    steady = SteadyClock(wall_clock, clock)
    if budget is None:
        ledger = None if config.bulk is None else config.bulk.ledger(service)
        return Spending(ledger, longest_s, clock=steady, steady_s=steady.steady_s, only_jobs=True)
    limits = [limit.limit() for limit in budget.limits]
    return Spending(
        budget.ledger(service),
        longest_s,
        limits=limits,
        pacing=budget.pacing.pacing(),
        clock=steady,
        steady_s=steady.steady_s,
    )


def batch_limits(config: ServiceConfig) -> BatchLimits:
    batching = config.batching
    return BatchLimits(
        max_batch_size=batching.max_batch_size,
        max_wait_s=batching.max_wait_ms / 1e3,
        max_queue=batching.max_queue,
        aging_s=batching.aging_s,
        longest_request_s=config.dispatch.request_timeout_s,
        bulk_price_factor=1.0 if config.bulk is None else config.bulk.price_factor,
    )
