"""Makes events of what becomes of requests: of verdicts, of ends, and of what these turn out to cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apportion.router.batch.events import AttemptEnded, Events, Forecast, RequestEnded, RequestRefused
from apportion.router.batch.messages import Decision, Done, Ending, Held
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.budget import Account
from apportion.router.errors import ApportionError


@dataclass(slots=True)
class _Open:
    """A request between its decision and the day that its cost is known."""

    account: Account
    model: str
    named: str | None = None
    decision: Decision | None = None
    forecast: Forecast | None = None
    sequences: int = 1
    row_second: str | None = None
    done: Done | None = None
    running: float = 0.0


class Chronicle:
    """Keeps of each request in flight what its event will tell.

    Args:
        events: tells them.
        wall_clock: seconds since 1970.
        clock: seconds of the monotonic clock that arrivals are told by.
        running_with: of a request in flight, sequences on its replica, its own too, on average since it began.
    """

    def __init__(
        self,
        events: Events,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
        running_with: Callable[[str], float],
    ) -> None:
        self._events = events
        self._wall_clock = wall_clock
        self._clock = clock
        self._running_with = running_with
        self._open: dict[str, _Open] = {}

    def decided(self, entry: Entry, decision: Decision) -> None:
        """The request goes to an engine."""
        item = entry.item
        self._open[item.id] = _Open(
            item.account, decision.model, item.model, decision, entry.forecast, item.sequences, item.row_second
        )

    def adopted(self, held: Held) -> None:
        """The request is at an engine, where a router before this one had sent it."""
        self._open.setdefault(held.id, _Open(held.account, held.model))

    def refused(self, entry: Entry, error: ApportionError) -> None:
        """The request goes nowhere."""
        item = entry.item
        waited_s = self._clock() - entry.arrived_s
        self._events.publish(
            RequestRefused(self._wall_clock(), item.id, item.account, item.model, error.code, error.status, waited_s)
        )

    def ended(self, done: Done) -> None:
        """The request has ended, and still holds its slots; what it costs is told next, or when its engine says so."""
        known = self._open.get(done.id)
        if known is not None and known.done is None:
            known.done, known.running = done, self._running_with(done.id)

    def settled(self, request_id: str, cost_nano: int, told: bool) -> None:
        """The request costs this, in nano-USD; of one that has not ended, no engine has seen anything."""
        known = self._open.pop(request_id, None)
        if known is None or known.done is None:
            return
        done = known.done
        # Of what its ingress gave up before it was sent, the ingress itself says how that ended.
        last = done.ending is not Ending.unsent if done.course is None else done.course.status is not None
        self._events.publish(
            (RequestEnded if last else AttemptEnded)(
                self._wall_clock(),
                request_id,
                known.account,
                known.model,
                done.ending,
                cost_nano,
                told,
                known.named,
                known.decision,
                known.forecast,
                done.course,
                known.sequences,
                known.running,
                known.row_second,
            )
        )
