"""Who looks at the service is told every second how it does; the router is asked once, however many look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import Response, StreamingResponse

from apportion.deployments.wire.calls import answer_of
from apportion.router.batch.guards.recent import Recent
from apportion.router.errors import OverloadedError

PERIOD_S = 1.0
TIMEOUT_S = 2.0  # of the router's answer
WATCH_S = 20.0  # then a page asks again: an ingress that stops waits for all that it answers
STALL_S = 10.0  # beyond, for a page that takes nothing of what it is told
MAX_VIEWERS = 32


class Console:
    """The events of the console, in one ingress.

    Args:
        ask: the router's `console`.
    """

    def __init__(self, ask: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._ask = ask
        self._recent: Recent[dict[str, Any]] = Recent("what the console shows", self._told, time.monotonic)
        self._viewers = 0

    @contextlib.asynccontextmanager
    async def watched(self, may_watch: Callable[[], bool]) -> AsyncIterator[Response]:
        """A response of server-sent events; whoever watches counts while the context lasts.

        Args:
            may_watch: whether who has asked may see this, still.

        Raises:
            OverloadedError: as many as may watch do.
        """
        if self._viewers >= MAX_VIEWERS:
            raise OverloadedError(f"{MAX_VIEWERS} consoles are open at this ingress; close one, or try again later")
        self._viewers += 1
        try:
            async with asyncio.timeout(WATCH_S + STALL_S) as patience:
                yield StreamingResponse(
                    self._events(may_watch), media_type="text/event-stream", headers={"cache-control": "no-store"}
                )
        except TimeoutError:
            if not patience.expired():
                raise
        finally:
            self._viewers -= 1

    async def _events(self, may_watch: Callable[[], bool]) -> AsyncIterator[str]:
        ends_s, seen_s = time.monotonic() + WATCH_S, None
        while may_watch() and time.monotonic() < ends_s:
            numbers = await self._recent.within(PERIOD_S / 2, TIMEOUT_S)
            if numbers is None or self._recent.error is not None:
                yield _event({"error": "the router does not answer"})
            else:
                yield _event(_since(numbers, seen_s))
                seen_s = numbers["batches"][-1]["at_s"] if numbers["batches"] else 0.0
            await asyncio.sleep(PERIOD_S)

    async def _told(self) -> dict[str, Any]:
        return await answer_of(self._ask(), TIMEOUT_S)


def _since(numbers: dict[str, Any], seen_s: float | None) -> dict[str, Any]:
    """The numbers with those batches only that came after what was seen; `anew`: with all, and none was seen."""
    batches = [one for one in numbers["batches"] if seen_s is None or one["at_s"] > seen_s]
    return numbers | {"batches": batches, "anew": seen_s is None}


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told, separators=(',', ':'), allow_nan=False)}\n\n"
