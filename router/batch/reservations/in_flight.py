"""What is in flight, as far as limits count it: taken with a request's slots, given back with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, IntArray
from apportion.router.batch.concurrency import NO_LIMITS, ConcurrencyLimit, LimitRoom, LimitsLeft
from apportion.router.budget import Account
from apportion.router.variants import model_of


@dataclass(frozen=True, slots=True)
class Load:
    """What a request in flight counts by.

    Args:
        model: or variant that answers it.
        account: its caller; None: only its replica has told of it, so that it counts for all whom it may be of.
        sequences: answers.
        most_tokens: that they can have together; where nobody knows, all that a limit allows.
    """

    model: str
    account: Account | None
    sequences: int
    most_tokens: int


class InFlight:
    """Counts requests, whether a limit holds for them or not: another one may tomorrow.

    Args:
        models: names, in the order of the capacity.
        capacity: (M,) slots that they have now.
    """

    def __init__(self, models: Sequence[str], capacity: Callable[[], IntArray]) -> None:
        self._models = tuple(models)
        self._capacity = capacity
        self._loads: dict[str, Load] = {}
        self._limits: tuple[ConcurrencyLimit, ...] = ()
        self._holds_on: tuple[BoolArray, ...] = ()  # (M,) of each limit
        self._used: list[int] = []

    def set_limits(self, limits: Iterable[ConcurrencyLimit], columns: Sequence[str]) -> None:
        """These hold from now on; what is in flight stays, and counts.

        Args:
            columns: models and variants that requests go to.
        """
        self._limits, found = tuple(limits), []
        for limit in self._limits:
            held = {model_of(name) for name in columns if limit.holds_on(name)}
            found.append(np.array([model in held for model in self._models]))
        self._holds_on, self._used = tuple(found), [0] * len(self._limits)
        for load in self._loads.values():
            self._count(load, 1)

    def admits(self, load: Load) -> bool:
        """Whether every limit has room for it."""
        if not self._limits:
            return True
        most = self._most()
        return all(used + more <= at_most for used, at_most, more in zip(self._used, most, self._of(load), strict=True))

    def begin(self, request_id: str, load: Load) -> None:
        """The request is in flight; one that is already is left alone."""
        if request_id not in self._loads:
            self._loads[request_id] = load
            self._count(load, 1)

    def end(self, request_id: str) -> None:
        """The request has ended; one that is not known is left alone."""
        load = self._loads.pop(request_id, None)
        if load is not None:
            self._count(load, -1)

    def left(self, patient: BoolArray | None = None) -> LimitsLeft | None:
        """How the limits stand; None: there are none.

        Args:
            patient: (N,) requests that what is left may be kept for.
        """
        if not self._limits:
            return None
        most = self._most()
        return LimitsLeft(self._limits, np.array(most), np.array(self._left(most)), patient)

    def empty(self) -> LimitsLeft | None:
        """How they would stand if nothing were in flight; None: there are none."""
        if not self._limits:
            return None
        most = np.array(self._most())
        return LimitsLeft(self._limits, most, most)

    def room(self) -> LimitRoom:
        """What they leave, for the queue."""
        if not self._limits:
            return NO_LIMITS
        engines = [sum(1 << column for column in np.flatnonzero(on).tolist()) for on in self._holds_on]
        return LimitRoom(dict(zip(self._limits, zip(self._left(self._most()), engines, strict=True), strict=True)))

    def describe(self) -> dict[str, Any]:
        """Each limit by its name, with what it allows and what is in flight, as JSON."""
        return {
            limit.name: {"of": limit.of.value, "at_most": most, "in_flight": used}
            for limit, most, used in zip(self._limits, self._most(), self._used, strict=True)
        }

    def _most(self) -> list[int]:
        shared = any(limit.share is not None for limit in self._limits)
        capacity = self._capacity() if shared else np.zeros(len(self._models), dtype=np.int64)
        return [limit.most(int(capacity[on].sum())) for limit, on in zip(self._limits, self._holds_on, strict=True)]

    def _left(self, most: Sequence[int]) -> list[int]:
        return [max(at_most - used, 0) for at_most, used in zip(most, self._used, strict=True)]

    def _of(self, load: Load) -> list[int]:
        return [
            limit.most_of_unknown(load.model, load.sequences)
            if load.account is None
            else limit.count(load.sequences, load.most_tokens)
            if limit.holds_on(load.model) and limit.holds_for(load.account)
            else 0
            for limit in self._limits
        ]

    def _count(self, load: Load, sign: int) -> None:
        if self._limits:
            self._used = [used + sign * more for used, more in zip(self._used, self._of(load), strict=True)]
