"""The engines' replicas: where they answer, the slots that they have, and whether they work.

A replica that failed several times in a row gets no requests for a while, then one as a trial.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, IntArray
from apportion.router.batch.guards.breaker import Breaker, BreakerState
from apportion.router.batch.messages import Done, EngineReplica, Held, RouteItem
from apportion.router.batch.reservations.bulk_share import BulkShare
from apportion.router.batch.reservations.in_flight import InFlight, Load
from apportion.router.batch.reservations.occupancy import Occupancy
from apportion.router.batch.reservations.slots import SlotLedger
from apportion.router.variants import model_of

logger = logging.getLogger(__name__)

REPLICA_TTL_S = 10.0  # a replica unheard of for so long is taken for dead, and what it was answering is given up
LONGEST_PAUSE_S = 60.0
BREAKER_MEMORY_S = 300.0  # so long, a replica that was away is known to have failed before


class Fleet:
    """Replicas by their announcements, and the requests on them.

    Args:
        models: names in the order of every array.
        clock: seconds of a monotonic clock.
        expected: models that are to have replicas; None: all.
        sleepers: models that are asleep where they have no replica: one starts when it is asked for.
        bulk: what bulk may have of the slots; None: what it may where nothing is said of it.

    Attributes:
        concurrency: limits on what is in flight, and what counts for them.
    """

    def __init__(
        self,
        models: Sequence[str],
        clock: Callable[[], float],
        *,
        expected: Iterable[str] | None = None,
        sleepers: Iterable[str] = (),
        bulk: BulkShare | None = None,
    ) -> None:
        self.bulk = bulk or BulkShare(models)
        self._expected = frozenset(models if expected is None else expected)
        sleeping = frozenset(sleepers)
        self._may_sleep = np.array([name in sleeping for name in models])
        self._clock = clock
        self._columns = {name: column for column, name in enumerate(models)}
        self._slots = SlotLedger(len(models))
        self._unclaimed: dict[str, str] = {}  # requests that their replica alone has told of, and that replica
        self.concurrency = InFlight(models, self._slots.capacity)
        self._occupancy = Occupancy(clock)
        self._replicas: dict[str, EngineReplica] = {}
        self._heard_s: dict[str, float] = {}
        self._breakers: dict[str, Breaker] = {}
        self._busy_until_s: dict[str, float] = {}
        self._left_s: dict[str, float] = {}  # when those left whose breakers are still known
        self._silent: dict[str, None] = {}  # those of them that did not say so

    @property
    def in_flight(self) -> int:
        return self._slots.in_flight

    @property
    def complete(self) -> bool:
        """Whether every model that is to have replicas has one."""
        return self._expected <= {replica.model for replica in self._replicas.values()}

    @property
    def silent(self) -> tuple[str, ...]:
        """Replicas whose heartbeats have ceased in the last minutes without a word."""
        return tuple(self._silent)

    def capacity(self) -> IntArray:
        """(M,) slots of the replicas that work, used or not."""
        return self._slots.capacity()

    def asleep(self) -> BoolArray:
        """(M,) models that have no replica, and get one when it is asked for."""
        present = {replica.model for replica in self._replicas.values()}
        asleep: BoolArray = self._may_sleep & np.array([name not in present for name in self._columns])
        return asleep

    def free_slots(self, *, bulk: bool = False) -> IntArray:
        """(M,) slots that may be taken now."""
        self._end_pauses()
        free = self._slots.free_slots()
        return self.bulk.free(self._slots.capacity(), free, self._slots.used_by_bulk()) if bulk else free

    def running_next(self) -> IntArray:
        """(M,) sequences that run on the replica of each model that a request would go to now."""
        return self._slots.used_next()

    def running_with(self, request_id: str) -> float:
        """Sequences on the replica of a request in flight, its own too, on average since it began."""
        return self._occupancy.mean(request_id)

    def room(self, *, bulk: bool = False) -> IntArray:
        """(M,) the most sequences that a request can start with now on one replica.

        A bulk row of more answers than bulk has slots starts where no other one is.
        """
        self._end_pauses()
        room = self._slots.room()
        if not bulk:
            return room
        free, alone = self.free_slots(bulk=True), self._slots.used_by_bulk() == 0
        return np.where(alone & (free > 0), room, np.minimum(room, free))

    def announce(self, replica: EngineReplica) -> bool:
        """A replica's heartbeat; True if it has slots that are new.

        What one that is new here already answers takes its slots from now on: after a restart of the router, ingresses
        tell of it later than other requests may come.
        """
        self._silent.pop(replica.id, None)
        if replica.draining or replica.model not in self._columns:
            self._drop(replica.id)
            return False
        known = self._replicas.get(replica.id)
        is_new = known is None
        has_more = known is None or replica.slots > known.slots
        self._heard_s[replica.id] = self._clock()
        self._replicas[replica.id] = replica
        self._slots.join(replica.id, self._columns[replica.model], replica.slots)
        if is_new:
            self._left_s.pop(replica.id, None)
            self._breakers.setdefault(replica.id, Breaker())
            self._restrict(replica.id)  # to go silent and come back is no proof that it works
            self._find(replica)
            logger.info("replica %s of %s joined at %s", replica.id, replica.model, replica.url)
        return self._let_go(replica.id, replica.running) or has_more

    def used_by_bulk(self) -> IntArray:
        """(M,) slots that rows of jobs hold."""
        return self._slots.used_by_bulk()

    def avoided(self, items: Sequence[RouteItem]) -> BoolArray | None:
        """(N, M) True for models that the request is not to go to again; None where there is nothing to avoid."""
        if not any(item.avoid_replicas or item.avoid_models for item in items):
            return None
        avoided = np.zeros((len(items), len(self._columns)), dtype=bool)
        asleep = self.asleep()
        for row, item in enumerate(items):
            for name, column in self._columns.items():
                others = set(self._slots.replicas_of(column)) - set(item.avoid_replicas)
                avoided[row, column] = not (others or asleep[column]) or name in item.avoid_models
        return avoided

    def seat(
        self, item: RouteItem, model: str, rather: str | None = None, most_tokens: int = 0
    ) -> EngineReplica | None:
        """Takes the request's slots on a replica of the model; None if they, or what limits left it, are gone.

        Args:
            model: or a variant of it.
            rather: the replica that has read the most of the request, unless others have far more room.
            most_tokens: that its answers can have together.
        """
        load = Load(model, item.account, item.sequences, most_tokens)
        if not self.concurrency.admits(load):
            return None
        column = self._columns[model_of(model)]
        if item.bulk and self.room(bulk=True)[column] < item.sequences:
            return None
        name = self._slots.reserve(item.id, column, item.sequences, item.avoid_replicas, rather, bulk=item.bulk)
        if name is None:
            return None
        self._follow(item.id, load)
        return self._replicas[name]

    def adopt(self, held: Held) -> None:
        """Seats what is in flight already and was seated by a router before this one."""
        if held.id in self._unclaimed:
            self.release(held.id)
        if (column := self._columns.get(model_of(held.model))) is not None:
            bulk = held.account.job is not None
            self._slots.adopt(held.id, column, held.sequences, held.replica, bulk=bulk)
            self._follow(held.id, Load(held.model, held.account, held.sequences, held.most_tokens))

    def end(self, done: Done) -> str | None:
        """A request ended: its slots are free, and its replica did well or not.

        Returns:
            The replica that it was on; None if it was on none.
        """
        seat = self._slots.seat_of(done.id)
        replica = None if seat is None else seat.replica
        self.release(done.id)
        if replica is not None and done.busy_s > 0:
            self._pause(replica, self._clock() + min(done.busy_s, LONGEST_PAUSE_S))
        breaker = None if replica is None else self._breakers.get(replica)
        # Of one that works and has not failed lately nothing changes.
        if replica is not None and breaker is not None and (breaker.failed or done.ending.failed):
            # One ingress that cannot reach it says little: it may be the ingress. Its heartbeats say whether it lives.
            if done.ending.failed:
                breaker.failure(self._clock())
            elif done.cost_usd is not None:
                breaker.success()
            self._restrict(replica)
        return replica

    def release(self, request_id: str) -> None:
        """Frees the slots of a request."""
        self._unclaimed.pop(request_id, None)
        self._slots.release(request_id)
        self._occupancy.end(request_id)
        self.concurrency.end(request_id)

    def sweep(self) -> bool:
        """Forgets replicas that are silent and lets trials begin; True if what waits may be served or refused now."""
        now_s = self._clock()
        silent = [replica for replica, heard_s in self._heard_s.items() if now_s - heard_s > REPLICA_TTL_S]
        for replica in silent:
            self._drop(replica)
            self._silent[replica] = None
        for replica in [name for name, left_s in self._left_s.items() if now_s - left_s > BREAKER_MEMORY_S]:
            del self._breakers[replica], self._left_s[replica]
            self._silent.pop(replica, None)
        trials = [self._restrict(replica) for replica in self._replicas]
        return self._end_pauses() or bool(silent) or any(trials)

    def describe(self) -> dict[str, Any]:
        """Slots by model, replicas and limits by name, as JSON."""
        capacity, free, asleep = self.capacity().tolist(), self.free_slots().tolist(), self.asleep().tolist()
        now_s = self._clock()
        return {
            "models": {
                name: {"slots": capacity[j], "free_slots": free[j], "asleep": asleep[j]}
                for name, j in self._columns.items()
            },
            "replicas": {
                name: {
                    "model": replica.model,
                    "url": replica.url,
                    "breaker": self._breakers[name].state(now_s),
                    "peak": replica.peak,
                    **({} if replica.trouble is None else {"trouble": replica.trouble}),
                }
                for name, replica in self._replicas.items()
            },
            "concurrency_limits": self.concurrency.describe(),
        }

    def _find(self, replica: EngineReplica) -> None:
        for request_id, sequences in replica.running.items():
            if self._slots.seat_of(request_id) is None:
                self._slots.adopt(request_id, self._columns[replica.model], sequences, replica.id)
                self._follow(request_id, Load(replica.model, None, sequences, 0))
                self._unclaimed[request_id] = replica.id

    def _let_go(self, replica: str, running: Collection[str] = ()) -> bool:
        """Frees what nobody else has told of and its replica answers no more; True if there was any."""
        gone = [one for one, where in self._unclaimed.items() if where == replica and one not in running]
        for request_id in gone:
            self.release(request_id)
        return bool(gone)

    def _follow(self, request_id: str, load: Load) -> None:
        seat = self._slots.seat_of(request_id)
        if seat is not None:
            self._occupancy.begin(request_id, seat.replica, seat.sequences)
            self.concurrency.begin(request_id, load)

    def _restrict(self, replica: str) -> bool:
        state = self._breakers[replica].state(self._clock())
        most = {BreakerState.closed: None, BreakerState.half_open: 1, BreakerState.open: 0}[state]
        self._slots.restrict(replica, most)
        return state is BreakerState.half_open

    def _pause(self, replica: str, until_s: float) -> None:
        self._busy_until_s[replica] = max(until_s, self._busy_until_s.get(replica, 0.0))
        self._slots.pause(replica, True)

    def _end_pauses(self) -> bool:
        now_s = self._clock()
        over = [replica for replica, until_s in self._busy_until_s.items() if until_s <= now_s]
        for replica in over:
            del self._busy_until_s[replica]
            self._slots.pause(replica, False)
        return bool(over)

    def _drop(self, replica: str) -> None:
        if self._replicas.pop(replica, None) is not None:
            logger.info("replica %s left", replica)
            self._left_s[replica] = self._clock()
        self._heard_s.pop(replica, None)
        self._let_go(replica)
        self._slots.leave(replica)
