"""Natural batching: while one batch is planned the next collects; an idle service plans at once.

Knows nothing of what is planned. A plan hands back the entries that have to wait (for a slot); they keep their
place and are planned again when something new arrives or `wake` is called. The line is ordered by priority, and
waiting raises it: whoever waits long enough is first.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

from apportion.router.errors import OverloadedError

logger = logging.getLogger(__name__)
T = TypeVar("T")

PACE_MEMORY_S = 5.0  # how far back the pace looks


class BatchQueue(Generic[T]):
    """Collects entries by key and runs `plan` on batches of them.

    Args:
        plan: plans a batch; returns the keys that have to wait. It must not raise for a bad entry.
        max_batch_size: most entries of a batch.
        max_wait_s: a batch starts even while another is planned, if its oldest new entry has waited this long.
        max_queue: most entries that wait.
        priority: of an entry; the higher, the further in front.
        aging_s: waiting this long counts as one more of priority.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self,
        plan: Callable[[list[T]], Awaitable[set[str]]],
        key: Callable[[T], str],
        *,
        max_batch_size: int,
        max_wait_s: float,
        max_queue: int,
        clock: Callable[[], float],
        priority: Callable[[T], float] = lambda _: 0.0,
        aging_s: float = 10.0,
    ) -> None:
        self._plan = plan
        self._key = key
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._priority = priority
        self._aging_s = aging_s
        self._clock = clock
        self._backlog = min(max_batch_size, max_queue)
        self._pace = _Pace()
        self._waiting: dict[str, T] = {}
        self._arrived_s: dict[str, float] = {}
        self._stale: set[str] = set()  # planned before, waits for `wake` or company
        self._wakes = 0
        self._planning: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: T, patience_s: float = math.inf) -> None:
        """Queues an entry.

        Args:
            patience_s: how long it can wait; at the present pace it must come to its turn by then.

        Raises:
            OverloadedError: the queue is full or too slow; says when to try again.
        """
        waiting = len(self._waiting)
        wait_s = self._pace.seconds_for(waiting)
        if waiting >= self._max_queue or (waiting > self._max_batch_size and wait_s > patience_s):
            retry_after_s = min(max(wait_s, 1.0), 30.0)
            raise OverloadedError(
                f"{waiting} requests wait already; try again in {retry_after_s:.0f} s", retry_after_s=retry_after_s
            )
        key = self._key(entry)
        self._waiting[key] = entry
        self._arrived_s[key] = self._clock()
        if len(self._waiting) >= self._backlog:
            self._pace.start(self._arrived_s[key])
        self._schedule()

    def discard(self, key: str) -> None:
        """Forgets a waiting entry; one that is being planned is not held up."""
        self._waiting.pop(key, None)
        self._arrived_s.pop(key, None)
        self._stale.discard(key)
        self._look_for_backlog()

    def wake(self) -> None:
        """Something was freed: what waits is worth planning again."""
        self._wakes += 1
        if self._stale:
            self._stale.clear()
            self._schedule()

    async def drain(self) -> None:
        """Returns when no batch is being planned."""
        await asyncio.gather(*self._planning)

    def _schedule(self) -> None:
        # One turn of the event loop later, so that everything that arrived in this turn shares the batch. In a context
        # of its own: Serve cancels the calls that were made in the context of a call that is cancelled.
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start, context=Context())

    def _start(self) -> None:
        self._scheduled = False
        if len(self._stale) == len(self._waiting):
            return
        if self._planning:
            oldest = min(s for key, s in self._arrived_s.items() if key not in self._stale)
            patience_s = oldest + self._max_wait_s - self._clock()
            if patience_s > 0:
                self._start_later(patience_s)
                return
        batch = {key: self._waiting[key] for key in self._first_in_line()}
        arrived = {key: self._arrived_s.pop(key) for key in batch}
        for key in batch:
            del self._waiting[key]
            self._stale.discard(key)
        task = asyncio.create_task(self._run(batch, arrived))
        self._planning.add(task)
        task.add_done_callback(self._planned)

    def _first_in_line(self) -> list[str]:
        """Keys of the next batch, the first in front; equals in the order of their arrival.

        Those that a plan has left over get what room there is: nothing that they could use was freed since.
        """
        now_s = self._clock()

        def rank(key: str) -> float:
            return self._priority(self._waiting[key]) + (now_s - self._arrived_s[key]) / self._aging_s

        if len(self._waiting) <= self._max_batch_size:
            return sorted(self._waiting, key=rank, reverse=True)
        fresh = [key for key in self._waiting if key not in self._stale]
        stale = [key for key in self._waiting if key in self._stale]
        chosen = heapq.nlargest(self._max_batch_size, fresh, key=rank)
        chosen += heapq.nlargest(self._max_batch_size - len(chosen), stale, key=rank)
        return sorted(chosen, key=rank, reverse=True)

    def _start_later(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._start, context=Context())

    async def _run(self, batch: dict[str, T], arrived: dict[str, float]) -> None:
        wakes = self._wakes
        left = await self._plan(list(batch.values()))
        self._pace.add(len(batch) - len(left), self._clock())
        if left:
            again = {key: entry for key, entry in batch.items() if key in left}
            self._waiting = again | self._waiting
            self._arrived_s |= {key: arrived[key] for key in again}
            if self._wakes == wakes:  # else something was freed after the plan had looked
                self._stale |= again.keys()
        self._look_for_backlog()

    def _look_for_backlog(self) -> None:
        if len(self._waiting) < self._backlog:
            self._pace.stop()

    def _planned(self, task: asyncio.Task[None]) -> None:
        self._planning.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("planning a batch failed: %s", type(task.exception()).__name__)
        if self._waiting:
            self._schedule()


class _Pace:
    """Entries that leave the queue in a second of the present backlog, the last seconds counting most.

    While all that waits comes with the next batch, departures say how much arrives, not how much could leave.
    """

    def __init__(self) -> None:
        self._left, self._elapsed_s = 0.0, 0.0
        self._since_s: float | None = None

    def start(self, now_s: float) -> None:
        """There is a backlog."""
        if self._since_s is None:
            self._since_s = now_s

    def stop(self) -> None:
        """The backlog is gone, and what was learned from it: the next one may have another cause."""
        self._left, self._elapsed_s = 0.0, 0.0
        self._since_s = None

    def add(self, count: int, now_s: float) -> None:
        """So many have left since the last time."""
        if self._since_s is not None:
            elapsed_s = now_s - self._since_s
            keep = math.exp(-elapsed_s / PACE_MEMORY_S)
            self._left = keep * self._left + count
            self._elapsed_s = keep * self._elapsed_s + elapsed_s
            self._since_s = now_s

    def seconds_for(self, count: int) -> float:
        """Until so many will have left; 0 while nothing is known of the pace."""
        return count * self._elapsed_s / self._left if self._left > 0 else 0.0
