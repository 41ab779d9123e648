"""Natural batching: while one batch is planned the next collects; an idle service plans at once.

Knows nothing of what is planned. A plan hands back the entries that have to wait, each with the lane that it waits in.
Where nothing is free for a lane its entries keep their place and are planned again when there is; those that were left
although there was something are tried again, a few at a time, when `wake` says that more was freed. So a plan is about
as large as what it can give, however many wait.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from apportion.router.batch.queueing.holdings import Holdings
from apportion.router.batch.queueing.line import FairLine, Lane, Place
from apportion.router.batch.queueing.pace import Pace
from apportion.router.errors import OverloadedError

logger = logging.getLogger(__name__)
T = TypeVar("T")

TICK_S = 0.005  # while some are left over, plans begin this far apart: what is freed meanwhile shares one
SURPLUS = 1.5  # what a plan asks for over what is free: some entries will turn out to need something else
FEW = 4  # entries that a plan may have however little is free
PROBES = 32  # entries of a plan that were left over by one before


class Room(Protocol):
    """What is free at a moment."""

    @property
    def free(self) -> float:
        """All of it."""

    def free_to(self, lanes: Collection[Lane]) -> float:
        """What entries of these lanes could start on now, together."""

    def kept_for(self, lane: Lane) -> bool:
        """Whether something is free that may be kept for who has waited long in the lane, until it is enough."""


@dataclass(slots=True)
class _Waiting(Generic[T]):
    entry: T
    place: Place
    arrived_s: float


class BatchQueue(Generic[T]):
    """Collects entries by key and runs `plan` on batches of them.

    Args:
        plan: plans a batch, those whose turn comes first in front; returns the keys that have to wait, with their lanes
            (None: not known yet). So many of the batch may start; the others are new, and are to be refused if they
            have to be. It must not raise for a bad entry.
        room: what is free now.
        max_batch_size: most entries of a batch.
        max_wait_s: a batch starts even while another is planned, if there has been reason to for so long.
        max_queue: most entries that wait.
        patience_s: what is free may be kept for an entry that has waited this long.
        clock: seconds of a monotonic clock.
        tick_s: least time between the starts of two plans while some are left over.
    """

    def __init__(
        self,
        plan: Callable[[list[T], int], Awaitable[Mapping[str, Lane]]],
        room: Callable[[], Room],
        *,
        max_batch_size: int,
        max_wait_s: float,
        max_queue: int,
        patience_s: float,
        clock: Callable[[], float],
        tick_s: float = TICK_S,
    ) -> None:
        self._plan = plan
        self._room = room
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._max_wait_s = max_wait_s
        self._patience_s = patience_s
        self._clock = clock
        self._tick_s = tick_s
        self._backlog = min(max_batch_size, max_queue)
        self._pace = Pace()
        self._line = FairLine()
        self._held = Holdings(max_queue)
        self._waiting: dict[str, _Waiting[T]] = {}
        self._left_over: OrderedDict[str, None] = OrderedDict()  # planned before, though there was something for them
        self._new = 0  # that have come since the last start
        self._wakes = 0
        self._woken = False
        self._since_s: float | None = None  # there is reason to plan
        self._numbers = itertools.count()
        self._ticking = False
        self._planning: set[asyncio.Task[None]] = set()
        self._in_plans = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()  # a batch may be to start
        self._starter: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether an entry more has to take another's place."""
        return len(self._held) >= self._max_queue

    @property
    def deciding(self) -> int:
        """Entries that are being planned, or are new and will be at once."""
        return self._in_plans + min(self._new, len(self._waiting))

    def lanes(self) -> list[Lane]:
        """Of those that have been planned and wait."""
        return [lane for lane in self._line.lanes() if lane is not None]

    def put(self, key: str, entry: T, place: Place, *, patience_s: float = math.inf) -> list[tuple[T, OverloadedError]]:
        """Queues an entry.

        Args:
            patience_s: how long it can wait; at the present pace it must come to its turn by then.

        Returns:
            Entries that have lost their place to it, since their account held the most.

        Raises:
            OverloadedError: the queue is too slow, or full and nobody holds more than the entry's account; says when
                to try again.
        """
        ahead = min(len(self._waiting), (self._held.of(place.account) + 1) * self._held.accounts)
        if ahead > self._max_batch_size and self._pace.seconds_for(ahead) > patience_s:
            raise self._overloaded(ahead)
        victims = self._held.make_room(place.account)
        if victims is None:
            raise self._overloaded(ahead)
        shed = [(self._remove(victim).entry, self._overloaded(len(self._waiting))) for victim in victims]
        now_s, place = self._clock(), place._replace(number=next(self._numbers))
        self._waiting[key] = _Waiting(entry, place, now_s)
        self._held.add(key, place.account)
        self._line.put(key, place)
        self._new += 1
        if len(self._waiting) >= self._backlog:
            self._pace.start(now_s)
        self._schedule()
        return shed

    def discard(self, key: str) -> None:
        """Forgets a waiting entry; one that is being planned is not held up."""
        if key in self._waiting:
            self._remove(key)
            self._look_for_backlog()

    def wake(self) -> None:
        """Something was freed: what waits is worth planning again."""
        self._wakes += 1
        self._woken = True
        if self._waiting:
            self._schedule()

    async def drain(self) -> None:
        """Returns when no batch is being planned."""
        await asyncio.gather(*self._planning)

    def _overloaded(self, ahead: int) -> OverloadedError:
        retry_after_s = min(max(self._pace.seconds_for(ahead), 1.0), 30.0)
        return OverloadedError(
            f"{len(self._waiting)} requests wait already; try again in {retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )

    def _remove(self, key: str) -> _Waiting[T]:
        waiting = self._waiting.pop(key)
        self._held.remove(key, waiting.place.account)
        self._line.discard(key)
        self._left_over.pop(key, None)
        return waiting

    def _schedule(self) -> None:
        if self._since_s is None:
            self._since_s = self._clock()
        if self._starter is None:
            # In a context of its own: Serve cancels the calls made in the context of a call that is cancelled.
            self._starter = asyncio.create_task(self._start_batches(), context=Context())
        self._due.set()

    async def _start_batches(self) -> None:
        """Starts them one turn of the event loop later, so that everything that arrived in this turn shares the batch.

        A task, since an event loop that ends cancels its tasks and runs its callbacks on: they would begin batches that
        it never runs.
        """
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                self._start()
            except Exception as error:
                logger.error("starting a batch failed: %s", type(error).__name__)

    def _start(self) -> None:
        if self._ticking and len(self._waiting) > self._new:
            return
        now_s = self._clock()
        if self._planning and self._since_s is not None:
            patience_s = self._since_s + self._max_wait_s - now_s
            if patience_s > 0:
                self._start_later(patience_s)
                return
        self._since_s = None
        starting, looked_at = self._choose(now_s)
        batch = {key: self._waiting[key] for key in (*starting, *looked_at)}
        if not batch:
            return
        self._woken, self._new = False, 0
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self._tick_s, self._tick_ends)
        for key in batch:
            self._remove(key)
        self._in_plans += len(batch)
        task = asyncio.create_task(self._run(batch, len(starting)))
        self._planning.add(task)
        task.add_done_callback(self._planned)

    def _tick_ends(self) -> None:
        self._ticking = False
        if self._waiting:
            self._schedule()

    def _choose(self, now_s: float) -> tuple[list[str], list[str]]:
        """Takes the next batch from the line: those that may start, the first in front, and those to be looked at.

        First are those that something is kept for, then those that a plan has left over: they have had their turn.
        """
        room = self._room()
        known = self.lanes()
        free = {lane: room.free_to([lane]) for lane in known}
        patient = [lane for lane in known if room.kept_for(lane) and self._is_patient(lane, now_s)][:FEW]
        limits: dict[Lane, float] = {
            lane: max(FEW, SURPLUS * count) for lane, count in free.items() if count and lane not in patient
        }
        most, cost = max(FEW, SURPLUS * room.free_to(limits)), 0.0
        chosen: list[str] = []
        for key in self._line.take(limits | {None: SURPLUS * room.free}):
            chosen.append(key)
            place = self._waiting[key].place
            cost += 0.0 if place.lane is None else place.cost
            if len(chosen) >= self._max_batch_size or cost >= most:
                break
        # What is new is looked at even if it cannot start: it may have to be refused, and then its lane is known.
        unknown = self._line.take({None: math.inf})
        looked_at = list(itertools.islice(unknown, self._max_batch_size - len(chosen)))
        if not (chosen or looked_at or self._woken or any(free[lane] for lane in patient)):
            return [], []
        in_front = [key for lane in patient for key in self._line.take({lane: 1.0})]
        probes = min(PROBES if self._woken else FEW, self._max_batch_size - len(chosen) - len(looked_at))
        return [*in_front, *self._probes(probes), *chosen], looked_at

    def _is_patient(self, lane: Lane, now_s: float) -> bool:
        key = self._line.first(lane)
        return key is not None and now_s - self._waiting[key].arrived_s > self._patience_s

    def _probes(self, most: int) -> list[str]:
        probes = [self._left_over.popitem(last=False)[0] for _ in range(min(most, len(self._left_over)))]
        for key in probes:
            self._line.charge(self._waiting[key].place)
        return probes

    def _start_later(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._due.set)

    async def _run(self, batch: dict[str, _Waiting[T]], starting: int) -> None:
        wakes = self._wakes
        try:
            left = await self._plan([waiting.entry for waiting in batch.values()], starting)
        finally:
            self._in_plans -= len(batch)
        self._pace.add(len(batch) - len(left), self._clock())
        room = self._room()
        for key, waiting in reversed(batch.items()):
            if key in left:
                waiting.place = waiting.place._replace(lane=left[key])
                self._waiting[key] = waiting
                self._held.add(key, waiting.place.account, in_front=True)
                self._line.refund(waiting.place)
        for row, (key, waiting) in enumerate(batch.items()):
            place = waiting.place
            if key not in left:
                self._line.served(place)
            # If something was freed after the plan had looked, there may have been nothing for it before.
            elif row < starting and self._wakes == wakes and (place.lane is None or room.free_to([place.lane])):
                self._left_over[key] = None
            else:
                self._line.put_back(key, place)
        self._look_for_backlog()

    def _look_for_backlog(self) -> None:
        if len(self._waiting) < self._backlog:
            self._pace.stop()

    def _planned(self, task: asyncio.Task[None]) -> None:
        self._planning.discard(task)
        if task.cancelled():  # the event loop ends
            return
        if task.exception() is not None:
            logger.error("planning a batch failed: %s", type(task.exception()).__name__)
        if self._waiting:
            self._schedule()
