"""Requests that only sleeping models may answer: put aside until one is awake, or for as long as they may wait.

They are in no queue meanwhile, so that nobody waits behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from apportion.router.batch.queueing.delay import DelayQueue
from apportion.router.batch.scheduling.entry import Entry
from apportion.router.errors import ApportionError


@dataclass(frozen=True, slots=True)
class _Waiting:
    entry: Entry
    error: ApportionError
    models: int  # bit j: the model of place j may answer
    wakes: int  # the place of the model that is asked for


class WakeQueue:
    """Holds requests by their ids, and knows which models they need.

    Args:
        back: takes a request of which a model is awake.
        late: takes a request that has waited for as long as it may, and its error.
        places: most requests that can be held.
    """

    def __init__(
        self, back: Callable[[Entry], None], late: Callable[[Entry, ApportionError], None], *, places: int
    ) -> None:
        self._back = back
        self._late = late
        self._held: dict[str, _Waiting] = {}
        self._wanted: Counter[int] = Counter()
        self._times: DelayQueue[str] = DelayQueue(self._time_is_up, places=places)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def wanted(self) -> frozenset[int]:
        """Places of the models that requests wait for."""
        return frozenset(self._wanted)

    def put(self, entry: Entry, error: ApportionError, models: int, best: int, wait_s: float) -> bool:
        """Puts a request aside; False if there is no place.

        Args:
            error: that it gets when its time is up.
            models: that may answer it, as bits.
            best: the place of the one to wake, where none of the models is being woken already.
        """
        key = entry.item.id
        if not self._times.put(key, key, wait_s):
            return False
        wakes = next((column for column in self._wanted if models >> column & 1), best)
        self._wanted[wakes] += 1
        self._held[key] = _Waiting(entry, error, models, wakes)
        return True

    def discard(self, key: str) -> None:
        """Forgets a request."""
        if key in self._held:
            self._take(key)

    def awake(self, models: int) -> None:
        """Hands back, in the order of their arrival, those that one of these models (bits) may answer."""
        for key in [key for key, one in self._held.items() if one.models & models]:
            self._back(self._take(key).entry)

    def _take(self, key: str) -> _Waiting:
        self._times.discard(key)
        one = self._held.pop(key)
        self._wanted[one.wakes] -= 1
        if not self._wanted[one.wakes]:
            del self._wanted[one.wakes]
        return one

    def _time_is_up(self, key: str) -> None:
        one = self._take(key)
        self._late(one.entry, one.error)
