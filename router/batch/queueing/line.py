"""The order of those who wait: accounts take turns, and each account's own go by rank.

Turns are start-time fair queueing (Goyal, Vin and Cheng 1997): each account's clock advances by what it takes, and
whoever's clock is least far is next; an account that had nothing to wait for starts at the present. Those that need
the same things share a lane, so that whole lanes are passed over while there is nothing for them.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple, TypeAlias

Lane: TypeAlias = Hashable
SPARE = 16  # entries of no use that a heap may have besides those of use
SPARE_CLOCKS = 10_000  # of accounts that wait for nothing; when there are more, half of so many are kept


class Place(NamedTuple):
    """Where an entry stands.

    Args:
        account: whose it is.
        lane: that it waits in; None until it is known what it needs.
        rank: the lower, the sooner within its account.
        cost: what its turn takes.
        number: of equals the lower one is sooner.
    """

    account: Hashable
    lane: Lane
    rank: float
    cost: float = 1.0
    number: int = 0


@dataclass(slots=True)
class _Own:
    """One account's entries of a lane; those that left are taken out when they come to the front, or are many."""

    heap: list[tuple[float, int, str]] = field(default_factory=list)
    present: int = 0


@dataclass(slots=True)
class _LaneLine:
    """A lane's accounts; `turns` is a heap in which only what `listed` says of an account counts."""

    own: dict[Hashable, _Own] = field(default_factory=dict)
    turns: list[tuple[float, int, Hashable]] = field(default_factory=list)
    listed: dict[Hashable, tuple[float, int]] = field(default_factory=dict)


class FairLine:
    """Keys in the order of their turns; no operation walks all that wait."""

    def __init__(self) -> None:
        self._now = 0.0
        self._clocks: dict[Hashable, float] = {}
        self._waiting: Counter[Hashable] = Counter()
        self._lanes: dict[Lane, _LaneLine] = {}
        self._places: dict[str, Place] = {}
        self._listings = itertools.count()

    def __len__(self) -> int:
        return len(self._places)

    def lanes(self) -> list[Lane]:
        """Those in which somebody waits."""
        return list(self._lanes)

    def put(self, key: str, place: Place) -> None:
        """Lets a new key wait."""
        if not self._waiting[place.account]:
            self._clocks[place.account] = max(self._now, self._clocks.get(place.account, self._now))
        self.put_back(key, place)

    def put_back(self, key: str, place: Place) -> None:
        """Lets a key wait on that was taken and whose turn was refunded: where it was."""
        self._places[key] = place
        self._waiting[place.account] += 1
        line = self._lanes.setdefault(place.lane, _LaneLine())
        own = line.own.setdefault(place.account, _Own())
        heapq.heappush(own.heap, (place.rank, place.number, key))
        own.present += 1
        self._list(line, place.account)

    def discard(self, key: str) -> None:
        """Forgets a key."""
        if key in self._places:
            self._leave(key)

    def charge(self, place: Place) -> None:
        """The account has a turn, which is yet to show its use."""
        clock = max(self._now, self._clocks.get(place.account, self._now))
        self._clocks[place.account] = clock + place.cost

    def refund(self, place: Place) -> None:
        """The turn was of no use."""
        self._clocks[place.account] = self._clocks.get(place.account, self._now) - place.cost

    def served(self, place: Place) -> None:
        """The turn was of use, and those that were not are refunded: the present is where it began."""
        self._now = max(self._now, self._clocks.get(place.account, self._now) - place.cost)

    def first(self, lane: Lane) -> str | None:
        """The next of a lane, which stays there."""
        account = self._next_account(self._lanes[lane])
        return None if account is None else self._first_of(self._lanes[lane].own[account])

    def take(self, limits: Mapping[Lane, float]) -> Iterator[str]:
        """Takes keys one after the other until nobody asks for more.

        Args:
            limits: lanes to take from, and what all that is taken of each may cost.
        """
        lines = [(self._lanes[lane], limit) for lane, limit in limits.items() if lane in self._lanes]
        fronts = [(-math.inf, -1, index) for index in range(len(lines))]
        spent = [0.0] * len(lines)
        while fronts:
            index = fronts[0][2]
            line, limit = lines[index]
            account = self._next_account(line) if spent[index] < limit else None
            if account is None:
                heapq.heappop(fronts)
            elif (front := (*line.listed[account], index)) != fronts[0]:
                heapq.heapreplace(fronts, front)
            else:
                key = self._first_of(line.own[account])
                heapq.heappop(line.own[account].heap)
                place = self._leave(key)
                spent[index] += place.cost
                self.charge(place)
                yield key

    def _leave(self, key: str) -> Place:
        place = self._places.pop(key)
        line = self._lanes[place.lane]
        own = line.own[place.account]
        own.present -= 1
        if own.present == 0:
            del line.own[place.account]
            if not line.own:
                del self._lanes[place.lane]
        elif len(own.heap) > 2 * own.present + SPARE:
            own.heap = [one for one in own.heap if self._stands(one)]
            heapq.heapify(own.heap)
        self._waiting[place.account] -= 1
        if not self._waiting[place.account]:
            del self._waiting[place.account]
            self._forget_clocks()
        return place

    def _forget_clocks(self) -> None:
        """Keeps the clocks of those that wait and those furthest ahead; so many are gone that the next time is far."""
        if len(self._clocks) > 2 * len(self._waiting) + SPARE_CLOCKS:
            ahead = ((s, a) for a, s in self._clocks.items() if s > self._now and a not in self._waiting)
            kept = heapq.nlargest(SPARE_CLOCKS // 2, ahead, key=itemgetter(0))
            self._clocks = {a: self._clocks[a] for a in self._waiting} | {a: s for s, a in kept}

    def _first_of(self, own: _Own) -> str:
        while not self._stands(own.heap[0]):
            heapq.heappop(own.heap)
        return own.heap[0][2]

    def _stands(self, one: tuple[float, int, str]) -> bool:
        place = self._places.get(one[2])
        return place is not None and place.number == one[1]

    def _list(self, line: _LaneLine, account: Hashable) -> None:
        listed, clock = line.listed.get(account), self._clocks[account]
        if listed is None or listed[0] > clock:
            line.listed[account] = (clock, next(self._listings))
            heapq.heappush(line.turns, (*line.listed[account], account))
            if len(line.turns) > 2 * len(line.own) + SPARE:
                line.listed = {a: turn for a, turn in line.listed.items() if a in line.own}
                line.turns = [(*turn, a) for a, turn in line.listed.items()]
                heapq.heapify(line.turns)

    def _next_account(self, line: _LaneLine) -> Hashable | None:
        """The account whose turn it is, now in front of the lane's turns; None: nobody waits."""
        while line.turns:
            clock, listing, account = line.turns[0]
            if line.listed.get(account) != (clock, listing):
                heapq.heappop(line.turns)
            elif account not in line.own:
                heapq.heappop(line.turns)
                del line.listed[account]
            elif self._clocks[account] > clock:
                line.listed[account] = (self._clocks[account], next(self._listings))
                heapq.heapreplace(line.turns, (*line.listed[account], account))
            else:
                return account
        return None
