"""One attempt at a request: what becomes of it at the replica that it was sent to."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from apportion.deployments.config.models import TimeoutsConfig
from apportion.router.batch.messages import Decision, Ending

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
    """

    decision: Decision
    limits: TimeoutsConfig
    planned_s: float
    line: Line
    begun_s: float = field(default_factory=now_s)
    cost_usd: float | None = None
    ending: Ending = Ending.given_up
    begun_to_answer: bool = False
    lost: bool = False  # whether the replica was found to be silent to everybody
    reused: bool = False  # whether the connection had served another request before

    def heard(self) -> None:
        self.begun_to_answer = True
        self.line.heard_s = now_s()

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
