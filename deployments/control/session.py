"""What the router knows of one ingress: which of its requests wait, which are in flight, what is to be told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apportion.router.batch.guards.breaker import BreakerState
from apportion.router.batch.messages import Decision, Reply, Told
from apportion.router.batch.scheduling.entry import Entry

MAX_EARLY_ENDS = 10_000  # ends of requests that are not known here; remembered so that none is adopted later


@dataclass(slots=True)
class Flight:
    """A request between its decision and its end; `decision` is None where another router made it.

    `second` is what money is set aside under for a cascade's second stage.
    """

    decision: Decision | None
    second: str | None = None
    since_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class IngressSession:
    """One ingress's requests, and what it is yet to be told.

    A decision stays until the request's end, in case its verdict is lost on the way.
    """

    undecided: dict[str, Entry] = field(default_factory=dict)
    in_flight: dict[str, Flight] = field(default_factory=dict)
    predictor: BreakerState = BreakerState.closed
    seen_s: float = field(default_factory=time.monotonic)
    unserved: Counter[str] = field(default_factory=Counter)  # told of so far
    settled: list[int] = field(default_factory=list)  # reports whose endings are in the ledger
    _early_ends: dict[str, None] = field(default_factory=dict)
    _verdicts: list[Told] = field(default_factory=list)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    def knows(self, request_id: str) -> bool:
        """Whether the request was handed over before; a decision is told again, since it has not arrived."""
        flight = self.in_flight.get(request_id)
        if flight is not None and flight.decision is not None:
            self._put(flight.decision)
        return request_id in self.undecided or request_id in self.in_flight

    def adopt(self, request_id: str, second: str | None) -> bool:
        """Whether a request that is told as held is news here; not if its end was: reports overtake each other."""
        if request_id in self.in_flight or request_id in self._early_ends:
            return False
        self.in_flight[request_id] = Flight(None, second)
        return True

    def unasked(self, request_id: str) -> str | None:
        """The second stage of a request in flight, if it has one that no engine was asked for."""
        flight = self.in_flight.get(request_id)
        second = None if flight is None else flight.second
        return None if second in self.in_flight else second

    def overdue(self, longest_s: float) -> list[str]:
        """Requests that are in flight for longer than any can be: their ends were lost."""
        now_s = time.monotonic()
        return [key for key, flight in self.in_flight.items() if now_s - flight.since_s > longest_s]

    def end(self, request_id: str) -> None:
        """The request has ended."""
        if request_id in self.in_flight:
            del self.in_flight[request_id]
            return
        self._early_ends[request_id] = None
        if len(self._early_ends) > MAX_EARLY_ENDS:
            del self._early_ends[next(iter(self._early_ends))]

    def more_unserved(self, totals: Mapping[str, int]) -> dict[str, int]:
        """Requests that have ended without the end of an attempt since the report before, by the code of the error.

        Args:
            totals: since the ingress began, so that nothing is counted twice, whichever report comes first.
        """
        more = {code: total - self.unserved[code] for code, total in totals.items() if total > self.unserved[code]}
        self.unserved.update(more)
        return more

    def tell(self, verdict: Told) -> None:
        """Puts the verdict into the next reply."""
        self.undecided.pop(verdict.id, None)
        if isinstance(verdict, Decision):
            second = verdict.second
            self.in_flight[verdict.id] = Flight(verdict, None if second is None else second.id)
        self._put(verdict)

    async def wait(self, timeout_s: float) -> None:
        """Until there is a verdict, or for so long."""
        if not self._verdicts:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), timeout_s)

    def wake(self) -> None:
        """There is something to tell, beside verdicts: the exchange that waits answers now."""
        self._ready.set()

    def reply(self, router: str, unknown: Sequence[str], silent: Sequence[str], *, samples: bool = False) -> Reply:
        """The verdicts and confirmations that there are, for the reply that is sent now."""
        reply = Reply(router, tuple(self._verdicts), tuple(self.settled), tuple(unknown), tuple(silent), samples)
        self._verdicts, self.settled = [], []
        self._ready.clear()
        return reply

    def _put(self, verdict: Told) -> None:
        self._verdicts.append(verdict)
        self._ready.set()
