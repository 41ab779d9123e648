"""An ingress's line to the router: many requests in one exchange, so that control costs a batch, not a request.

At most one exchange waits at the router for verdicts and at most one more carries news there; what arrives in
between goes with the next.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence

from deployments.messages import Decision, Done, Refusal, RouteItem, Verdict
from router.errors import UnavailableError

logger = logging.getLogger("ray.serve")

Exchange = Callable[[str, Sequence[RouteItem], Sequence[Done], Sequence[str], bool], Awaitable[list[Verdict]]]

COALESCE_S = 0.002  # news that no one waits for goes together
RETRY_S = 0.25  # after a failed exchange; the router may be restarting
MAX_FAILURES = 40
KEEPALIVE_S = 5.0


class RouterLink:
    """Asks for verdicts and tells endings.

    Args:
        exchange: the router's `exchange`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._name = uuid.uuid4().hex
        self._pending: dict[str, tuple[RouteItem, asyncio.Future[Verdict]]] = {}
        self._new: dict[str, RouteItem] = {}
        self._done: list[Done] = []
        self._cancelled: list[str] = []
        self._open: set[str] = set()  # decided, not yet done
        self._waiting: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_due_s = 0.0
        self._keepalive: asyncio.Task[None] | None = None
        self._failures = 0

    async def plan(self, item: RouteItem) -> Decision:
        """Where the request goes.

        Raises:
            ApportionError: why it goes nowhere.
            CancelledError: the caller gave up; its seat is freed.
        """
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._pending[item.id] = (item, future)
        self._new[item.id] = item
        self._flush_soon()
        try:
            verdict = await future
        except asyncio.CancelledError:
            self._pending.pop(item.id, None)
            if self._new.pop(item.id, None) is None:
                self._cancelled.append(item.id)
                self._flush_soon(COALESCE_S)
            raise
        if isinstance(verdict, Refusal):
            raise verdict.error
        self._open.add(verdict.id)
        return verdict

    def finish(self, done: Done) -> None:
        """A decided request has ended; its slot and money are settled."""
        self._open.discard(done.id)
        self._done.append(done)
        self._flush_soon(COALESCE_S)

    async def close(self) -> None:
        """Ends the line; what is on its way is given up."""
        tasks = [task for task in (self._keepalive, self._waiting, self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()

    def _flush_soon(self, delay_s: float = 0.0) -> None:
        if self._keepalive is None:
            self._keepalive = asyncio.create_task(self._keep_alive())
        if self._waiting is not None:
            delay_s = max(delay_s, COALESCE_S)  # a batch is being planned: gather company for the next
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer, self._timer_due_s = loop.call_at(due_s, self._flush), due_s

    def _flush(self) -> None:
        self._timer = None
        if self._pending and self._waiting is None:
            self._waiting = asyncio.create_task(self._run(wait=True))
        elif (self._new or self._done or self._cancelled) and self._telling is None:
            self._telling = asyncio.create_task(self._run(wait=False))

    async def _run(self, *, wait: bool) -> None:
        items, done, cancelled = list(self._new.values()), self._done, self._cancelled
        self._new, self._done, self._cancelled = {}, [], []
        try:
            verdicts = await self._exchange(self._name, items, done, cancelled, wait)
            self._failures = 0
        except Exception as error:
            await self._after_failure(error, done)
            verdicts = []
        if wait:
            self._waiting = None
        else:
            self._telling = None
        for verdict in verdicts:
            self._deliver(verdict)
        if self._pending or self._new or self._done or self._cancelled:
            self._flush_soon()

    def _deliver(self, verdict: Verdict) -> None:
        _, future = self._pending.pop(verdict.id, (None, None))
        if future is not None and not future.done():
            future.set_result(verdict)
        elif isinstance(verdict, Decision):
            # Given up meanwhile: if its cancel arrived too late, this frees the seat; twice does no harm.
            self._done.append(Done(verdict.id, None, worked=False))

    async def _after_failure(self, error: Exception, done: list[Done]) -> None:
        """The router did not answer: it forgot what waits (or is about to), so all of it is sent again."""
        self._failures += 1
        logger.warning("no answer from the router (%d): %r", self._failures, error)
        if self._failures > MAX_FAILURES:
            failure = UnavailableError("the router does not answer; try again in some seconds")
            for item, future in self._pending.values():
                if not future.done():
                    future.set_result(Refusal(item.id, failure))
            self._pending.clear()
            self._failures = 0
        await asyncio.sleep(RETRY_S)
        self._done = done + self._done
        self._new = {key: item for key, (item, future) in self._pending.items() if not future.done()}

    async def _keep_alive(self) -> None:
        """Long streams say nothing for minutes; the router must not take this ingress for dead meanwhile."""
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            if self._open and self._waiting is None and self._telling is None:
                self._telling = asyncio.create_task(self._run(wait=False))
