"""One attempt at a request: what becomes of it at the replica that it was sent to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.wire.headers import link_seconds
from apportion.deployments.wire.settlement import Settled
from apportion.router.batch.messages import Course, Decision, Done, Ending
from apportion.router.errors import ApportionError

# An engine that had a request for so long without a byte of answer has failed it if the request's own time is up.
LATE_S = 15.0


def now_s() -> float:
    """By the running loop's clock."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Line:
    """A replica while requests of this ingress are on it: how many, and when the last byte came out of it."""

    attempts: int = 0
    heard_s: float = -math.inf


@dataclass(slots=True)
class Attempt:
    """What becomes of a dispatched request: until the engine has done more, its client has given it up.

    Args:
        decision: where it goes.
        limits: what its engine has time for.
        planned_s: how long the decision took, in seconds.
        line: of the decision's replica.
        earlier: attempts at the same request before this one.

    Attributes:
        status: that the request ends with; None: it goes on.
        escalated: it was a cascade's first stage, and another engine is asked.
    """

    decision: Decision
    limits: TimeoutsConfig
    planned_s: float
    line: Line
    earlier: int
    status: int | None = ApportionError.status
    escalated: bool = False
    first_byte_s: float | None = None  # by the loop's clock
    begun_s: float = field(default_factory=now_s)
    settled: Settled | None = None  # what the engine has told
    ending: Ending = Ending.given_up
    begun_to_answer: bool = False
    busy_s: float = 0.0  # for so long its replica is to get nothing
    lost: bool = False  # whether the replica was found to be silent to everybody
    reused: bool = False  # whether the connection had served another request before
    carried: Mapping[str, str] = field(default_factory=dict)  # headers by which its engine goes on with its trace

    @property
    def cost_usd(self) -> float | None:
        """As the engine has told it."""
        return None if self.settled is None else self.settled.cost_usd

    def heard(self) -> None:
        self.begun_to_answer = True
        self.line.heard_s = now_s()
        if self.first_byte_s is None:
            self.first_byte_s = self.line.heard_s

    def done(self, arrived_s: float, text_hash: bytes | None) -> Done:
        """Its end, as the router is told.

        Args:
            arrived_s: when the request came, by the loop's clock.
            text_hash: of what was asked, where that is known.
        """
        first_byte_s = None if self.first_byte_s is None else self.first_byte_s - arrived_s
        link_s = link_seconds(self.decision, self.planned_s)
        told = self.settled
        course = Course(
            self.earlier,
            link_s,
            first_byte_s,
            total_s=now_s() - arrived_s,
            status=self.status,
            input_tokens=None if told is None else told.input_tokens,
            output_tokens=None if told is None else told.output_tokens,
            text_hash=text_hash,
            estimated=told is not None and told.estimated,
            signals=None if told is None else told.signals,
        )
        second = self.decision.second
        releases = None if second is None or self.escalated else second.id
        return Done(self.decision.id, self.cost_usd, self.ending, course, self.busy_s, releases)

    def late(self) -> Ending:
        """How it ends when the engine's time is up: slow under load, or silent to everybody."""
        return Ending.late if self.line.heard_s > self.begun_s else Ending.engine_failed

    def lose(self, total: asyncio.Timeout) -> None:
        """The replica sends no heartbeats any more: its time is up."""
        self.lost = True
        if not total.expired():
            total.reschedule(now_s())

    def out_of_time(self) -> None:
        """The request's own time is up; what its engine had for long without a byte is not its client's doing."""
        if self.ending is Ending.given_up and not self.begun_to_answer and now_s() - self.begun_s > LATE_S:
            self.ending = self.late()
