"""What the console shows beside the Router's state: the last batches, and what has become of requests."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apportion.router.batch.events import AttemptEnded, BatchPlanned, EndedUnserved, Event, RequestEnded
from apportion.router.batch.messages import Ending
from apportion.router.budget import from_nano

BATCHES = 50
SECONDS = 60  # of flow
FIRST_BYTES = 100  # of each model, the last ones


@dataclass(slots=True)
class _Second:
    """What ended in one second."""

    at_s: int
    answered: int = 0
    unanswered: int = 0
    cost_nano: int = 0


@dataclass(slots=True)
class _Model:
    """What has come of the attempts at one model."""

    answered: int = 0
    failed: int = 0
    cost_nano: int = 0
    first_byte_s: deque[float] = field(default_factory=lambda: deque(maxlen=FIRST_BYTES))


@dataclass(slots=True)
class _Code:
    """Requests that ended unserved with one code."""

    count: int = 0
    last_s: float = 0.0


class Board:
    """Hears of events and keeps little of them.

    Args:
        wall_clock: seconds since 1970.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._since_s = wall_clock()
        self._batches: deque[BatchPlanned] = deque(maxlen=BATCHES)
        self._seconds: deque[_Second] = deque(maxlen=SECONDS)
        self._models: dict[str, _Model] = {}
        self._unserved: dict[str, _Code] = {}

    def hear(self, event: Event) -> None:
        """Takes note of an event."""
        if isinstance(event, BatchPlanned):
            if event.bulk:  # of which there are many, and nothing is decided in them
                return
            self._batches.append(event)
        elif isinstance(event, AttemptEnded):
            self._ended(event)
        elif isinstance(event, EndedUnserved):
            self._end_unserved(event.counts)

    def describe(self) -> dict[str, Any]:
        """All of it, as JSON; the oldest batch first, and of the flow each second in which anything ended."""
        return {
            "at_s": self._wall_clock(),
            "since_s": self._since_s,
            "batches": [_batch(one) for one in self._batches],
            "flow": [
                {
                    "at_s": one.at_s,
                    "answered": one.answered,
                    "unanswered": one.unanswered,
                    "cost_usd": from_nano(one.cost_nano),
                }
                for one in self._seconds
            ],
            "answers": {
                name: {
                    "answered": one.answered,
                    "failed": one.failed,
                    "cost_usd": from_nano(one.cost_nano),
                    "first_byte_s": statistics.median(one.first_byte_s) if one.first_byte_s else None,
                }
                for name, one in self._models.items()
            },
            "unserved": {code: {"count": one.count, "last_s": one.last_s} for code, one in self._unserved.items()},
        }

    def _ended(self, event: AttemptEnded) -> None:
        second, model = self._second(), self._models.setdefault(event.model, _Model())
        answered = event.ending is Ending.answered
        model.answered += answered
        model.failed += event.ending.failed
        model.cost_nano += event.cost_nano
        second.cost_nano += event.cost_nano
        if isinstance(event, RequestEnded):
            second.answered += answered
            second.unanswered += not answered
        if event.course is not None and event.course.first_byte_s is not None:
            model.first_byte_s.append(event.course.first_byte_s)

    def _end_unserved(self, counts: Mapping[str, int]) -> None:
        now_s, second = self._wall_clock(), self._second()
        for name, count in counts.items():
            code = self._unserved.setdefault(name, _Code())
            code.count += count
            code.last_s = now_s
            second.unanswered += count

    def _second(self) -> _Second:
        at_s = int(self._wall_clock())
        if not self._seconds or self._seconds[-1].at_s != at_s:
            self._seconds.append(_Second(at_s))
        return self._seconds[-1]


def _batch(event: BatchPlanned) -> dict[str, Any]:
    info = event.info
    return {
        "id": info.id,
        "at_s": event.at_s,
        "strategy": event.strategy,
        "rung": event.rung,
        "size": info.size,
        "static": event.static,
        "waiting": event.waiting,
        "refused": dict(event.refused),
        "cost_usd": info.planned_cost_usd,
        "cap_usd": _finite(info.cap_usd),
        "price": _finite(info.budget_price),
        "objective": _finite(info.objective),
        "bound": _finite(info.bound),
        "gap": _finite(event.gap),
        "placed": dict(zip(event.models, event.placed.tolist(), strict=True)),
        "slot_prices": dict(zip(event.models, map(_finite, event.slot_prices.tolist()), strict=True)),
        "limit_prices": {name: _finite(price) for name, price in event.limit_prices.items()},
        "queue_s": event.queue_s,
        "predict_s": event.predict_s,
        "solve_s": event.solve_s,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
