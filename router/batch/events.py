"""What happens, for whoever watches: one event a batch and one a request, with references to what was known, no copies.

Nothing else reaches into the room for numbers: whoever wants to count, log, keep or show subscribes to these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.batch.messages import BatchInfo, Course, Decision, Ending
from apportion.router.batch.stages import first_id
from apportion.router.budget import Account
from apportion.router.estimates import Estimates

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What was known of one request on all models when it was decided.

    Args:
        models: names of the M models.
        estimates: a table that it shares with the others of its batch.
        row: its own of that table.
        allowed: (M,), the models that might answer.
    """

    models: tuple[str, ...]
    estimates: Estimates
    row: int
    allowed: BoolArray

    @property
    def success(self) -> FloatArray:
        """(M,) chances of a good answer."""
        success: FloatArray = self.estimates.success[self.row]
        return success

    @property
    def cost_usd(self) -> FloatArray:
        """(M,) expected costs."""
        cost_usd: FloatArray = self.estimates.cost_usd[self.row]
        return cost_usd

    @property
    def seconds(self) -> FloatArray | None:
        """(M,) expected seconds from dispatch to the last token, NaN where nobody knows; None: of no model."""
        return None if self.estimates.seconds is None else self.estimates.seconds[self.row]

    @property
    def guessed(self) -> bool:
        """Whether no predictor was asked or answered."""
        return self.row in self.estimates.guessed


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlanned:
    """A batch was planned: the requests that went to the solver together.

    Args:
        at_s: when, in seconds since 1970.
        info: its number, size, cap, planned cost, price of money, objective and bound.
        strategy: that was asked for.
        rung: that decided.
        static: requests of it that nobody had a prediction for.
        gap: how far the objective may be from the best, as a share of it.
        models: names of the M models.
        placed: (M,), requests that each model got.
        candidates: (M,), requests that each model might have answered.
        slot_prices: (M,), what one more slot is worth.
        limit_prices: what one more of each limit on what is in flight is worth, by its name, in what it counts.
        waiting: requests that were looked at with it and wait for the next.
        refused: how many were refused with it, by the code of the error.
        queue_s: longest time in the queue.
        predict_s: longest time of a prediction.
        solve_s: of planning.
        take_s: of taking slots and money.
        bulk: its requests are rows of jobs, whose models another plan has chosen.
    """

    at_s: float
    info: BatchInfo
    strategy: str
    rung: str
    static: int
    gap: float
    models: tuple[str, ...]
    placed: IntArray
    candidates: IntArray
    slot_prices: FloatArray
    limit_prices: Mapping[str, float]
    waiting: int
    refused: Mapping[str, int]
    queue_s: float
    predict_s: float
    solve_s: float
    take_s: float
    bulk: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AttemptEnded:
    """An attempt at a request has ended, and it is known what that costs.

    Args:
        at_s: when, in seconds since 1970.
        id: of the attempt; the first one's is the request's.
        account: who pays.
        model: that answered.
        ending: how.
        cost_nano: what it cost, in nano-USD.
        cost_told: whether the engine has said so; else it is the most that it can have cost.
        named: the model that the request names; None: any.
        decision: why it went there; None: a router before this one had decided.
        forecast: what was known of the request; None as above.
        course: how it went, as its ingress saw it; None: its ingress is gone, or an engine never had it.
        sequences: that were generated for it.
        running: sequences that its replica ran meanwhile, its own too, on average.
        row_second: the second model of the cascade that it was a stage of, as a row of a job; None: it was none.
    """

    at_s: float
    id: str
    account: Account
    model: str
    ending: Ending
    cost_nano: int
    cost_told: bool
    named: str | None = None
    decision: Decision | None = None
    forecast: Forecast | None = None
    course: Course | None = None
    sequences: int = 1
    running: float = 0.0
    row_second: str | None = None

    @property
    def request_id(self) -> str:
        """Of the request that this was an attempt at."""
        earlier = 0 if self.course is None else self.course.earlier
        first = self.id
        if self.second_stage:
            first, earlier = first_id(first), earlier - 1
        return first.removesuffix(f"-{earlier}") if earlier else first

    @property
    def second_stage(self) -> bool:
        """Whether it was a cascade's second stage."""
        return first_id(self.id) != self.id

    @property
    def of_cascade(self) -> bool:
        """Whether it was a stage of a cascade."""
        offered = self.decision is not None and self.decision.second is not None
        return offered or self.second_stage or self.row_second is not None

    @property
    def escalated(self) -> bool:
        """Whether it was a cascade's first stage, whose answer was not sure enough."""
        offered = self.decision is not None and self.decision.second is not None
        goes_on = self.course is not None and self.course.status is None
        return offered and goes_on and self.ending is Ending.answered

    @property
    def kept(self) -> bool:
        """Whether it was a cascade's first stage, whose answer was given at once."""
        offered = self.decision is not None and self.decision.second is not None
        answered = self.course is not None and self.course.status is not None and self.course.status < 400
        return offered and answered and self.ending is Ending.answered


class RequestEnded(AttemptEnded):
    """The last attempt at a request has ended, and with it the request."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class RequestRefused:
    """The router has refused a request, or a further attempt at it.

    Args:
        at_s: when, in seconds since 1970.
        id: of the attempt; the first one's is the request's.
        account: who asked.
        named: the model that it names; None: any.
        code: of the error.
        status: of the error.
        waited_s: since it arrived.
    """

    at_s: float
    id: str
    account: Account
    named: str | None
    code: str
    status: int
    waited_s: float


@dataclass(frozen=True, slots=True, eq=False)
class EndedUnserved:
    """Requests have ended at an ingress without the end of an attempt: refused, given up, or late.

    Args:
        counts: how many, by the code of the error.
    """

    counts: Mapping[str, int]


Event = BatchPlanned | AttemptEnded | RequestRefused | EndedUnserved
Subscriber = Callable[[Event], None]


@dataclass(slots=True)
class Events:
    """Tells every subscriber of everything, in the order of what happens; one that fails harms nobody."""

    _subscribers: list[Subscriber] = field(default_factory=list)

    def subscribe(self, subscriber: Subscriber) -> None:
        """From now on it is told. It must be quick and wait for nothing: the router stands still meanwhile."""
        self._subscribers.append(subscriber)

    def publish(self, event: Event) -> None:
        """Tells the subscribers."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception as error:
                # Its class only: what it says may quote a request.
                logger.error("a subscriber failed at %s: %s", type(event).__name__, type(error).__name__)
