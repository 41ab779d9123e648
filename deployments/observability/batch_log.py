"""One log line a batch: what it held, what decided, and what that cost."""

from __future__ import annotations

import logging
from typing import Literal

from apportion.router.batch.events import BatchPlanned, Event

logger = logging.getLogger(__name__)
LEVELS = {"info": logging.INFO, "debug": logging.DEBUG}


class BatchLog:
    """Subscribes to the events.

    Args:
        level: of the lines.
    """

    def __init__(self, level: Literal["info", "debug"]) -> None:
        self._level = LEVELS[level]

    def __call__(self, event: Event) -> None:
        """Logs the event if it is a batch."""
        if not isinstance(event, BatchPlanned) or not logger.isEnabledFor(self._level):
            return
        info = event.info
        placed = " ".join(f"{m}={n}" for m, n in zip(event.models, event.placed.tolist(), strict=True) if n)
        refused = " ".join(f"{code}={count}" for code, count in event.refused.items())
        logger.log(
            self._level,
            "batch %d: %d requests by %s on rung %s (%d without predictions), planned %.3g USD of %.3g, %.3g a USD, "
            "gap %.2g, queue %.0f ms, predict %.0f ms, solve %.0f ms; %s; %d wait%s",
            info.id,
            info.size,
            event.strategy,
            event.rung,
            event.static,
            info.planned_cost_usd,
            info.cap_usd,
            info.budget_price,
            event.gap,
            1e3 * event.queue_s,
            1e3 * event.predict_s,
            1e3 * event.solve_s,
            placed or "nobody placed",
            event.waiting,
            f"; refused {refused}" if refused else "",
        )
