"""Limits on what is in flight: at most so many slots, requests or tokens, of some callers on some models together."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from apportion.router.arrays import BoolArray, IntArray
from apportion.router.budget import Account, Scope
from apportion.router.variants import covers, model_of

ROUNDING = 1e-9  # 0.29 of a hundred slots are 29


class Counted(enum.StrEnum):
    """What a limit counts."""

    slots = enum.auto()  # answers: each takes a slot
    requests = enum.auto()
    tokens = enum.auto()  # generated ones, the most that all of a request's answers can have


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most so much in flight at once.

    Args:
        name: it is told by.
        of: what is counted.
        at_most: of that; None where there is a share.
        share: of the slots that the models have at the moment, one at least; None where there is a number.
        models: that it holds on; one means all of its variants. None: all.
        tenants: that it holds for, all together; None: all.
        keys: API keys, likewise. Where both are given it holds for whoever is of both.
    """

    name: str
    of: Counted = Counted.slots
    at_most: int | None = None
    share: float | None = None
    models: tuple[str, ...] | None = None
    tenants: tuple[str, ...] | None = None
    keys: tuple[str, ...] | None = None

    def holds_for(self, account: Account) -> bool:
        """Whether that caller's requests count."""
        if self.tenants is not None and account.name(Scope.tenant, "") not in self.tenants:
            return False
        return self.keys is None or account.name(Scope.key, "") in self.keys

    def holds_on(self, model: str) -> bool:
        """Whether requests on that model or variant count."""
        return self.models is None or covers(self.models, model)

    def count(self, sequences: int, most_tokens: int) -> int:
        """What a request counts for."""
        if self.of is Counted.requests:
            return 1
        return sequences if self.of is Counted.slots else most_tokens

    def most_of_unknown(self, model: str, sequences: int) -> int:
        """What a request can count for of which only its model is known, and neither its variant nor its caller."""
        if self.models is not None and not any(model in (name, model_of(name)) for name in self.models):
            return 0
        return self.count(sequences, self.at_most or 0)

    def most(self, slots: int) -> int:
        """What may be in flight where the models have so many slots."""
        if self.share is None:
            return self.at_most or 0
        return max(math.floor(self.share * slots + ROUNDING), min(slots, 1))


@dataclass(frozen=True, eq=False)
class LimitsLeft:
    """How K limits stand.

    Args:
        limits: the K.
        most: (K,) that may be in flight; 0 where their models have no slots.
        left: (K,) of that.
        patient: (N,) requests of a batch for which what is left may be kept until it is enough; None: for none.
    """

    limits: tuple[ConcurrencyLimit, ...]
    most: IntArray
    left: IntArray
    patient: BoolArray | None = None


Needs = tuple[tuple[ConcurrencyLimit, int], ...]
"""What a request needs of each limit that holds for it."""


class LimitRoom:
    """What limits leave at a moment, for the queue to know whom they hold back.

    Args:
        left: what is left of a limit, and the engines that it holds on, as bits.
    """

    def __init__(self, left: Mapping[ConcurrencyLimit, tuple[int, int]]) -> None:
        self._left = left

    def blocked(self, needs: Needs) -> int:
        """Engines, as bits, that limits have too little left for. One that holds no more blocks nothing."""
        blocked = 0
        for limit, need in needs:
            left, engines = self._left.get(limit, (need, 0))
            if left < need:
                blocked |= engines
        return blocked

    def is_part(self, needs: Needs) -> bool:
        """Whether there is something left of a limit of which several are needed, be it enough or not."""
        return any(need > 1 and self._left.get(limit, (0, 0))[0] > 0 for limit, need in needs)

    def starts(self, needs: Needs) -> list[tuple[int, int]]:
        """Of each limit, how many requests with these needs it lets start, and on which engines, as bits."""
        found = [(self._left.get(limit), need) for limit, need in needs]
        return [(one[0] // need, one[1]) for one, need in found if one is not None]


NO_LIMITS = LimitRoom({})
