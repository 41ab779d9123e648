"""Who holds how much of the queue: its bounds, and whose place is taken when it is full."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable

SPARE = 1_000  # entries of no use that the heap may have besides those of use


class Holdings:
    """Entries by account, each with its size.

    An account's part is the sum of its entries', and an entry's is its share of the bytes or of the places, whichever
    is more.

    Args:
        max_entries: most entries that can be held.
        max_bytes: most bytes that they may have together.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._least = -(-max_bytes // max_entries)
        self._bytes = 0
        self._sizes: dict[str, int] = {}
        self._keys: dict[Hashable, OrderedDict[str, None]] = {}
        self._parts: dict[Hashable, int] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._pushes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def accounts(self) -> int:
        """How many hold something."""
        return len(self._keys)

    def of(self, account: Hashable) -> int:
        """Entries that the account holds."""
        return len(self._keys.get(account, ()))

    def add(self, key: str, account: Hashable, size: int, *, in_front: bool = False) -> None:
        """Takes an entry, as the account's newest or its oldest."""
        self._sizes[key] = size
        self._bytes += size
        keys = self._keys.setdefault(account, OrderedDict())
        keys[key] = None
        if in_front:
            keys.move_to_end(key, last=False)
        self._parts[account] = self._parts.get(account, 0) + max(size, self._least)
        self._push(account)

    def remove(self, key: str, account: Hashable) -> None:
        """Gives an entry's place back."""
        size = self._sizes.pop(key)
        self._bytes -= size
        self._parts[account] -= max(size, self._least)
        del self._keys[account][key]
        if not self._keys[account]:
            del self._keys[account], self._parts[account]

    def make_room(self, account: Hashable, size: int, elsewhere_bytes: int = 0) -> list[str] | None:
        """Which entries have to go for one more of the account: the newest ones of whoever holds most.

        Args:
            elsewhere_bytes: held by entries that are not here for the moment.

        Returns:
            Keys, none if there is room; None if nobody holds more than the account would.
        """
        entries = len(self._sizes) + 1 - self._max_entries
        surplus = self._bytes + elsewhere_bytes + size - self._max_bytes
        if entries <= 0 and surplus <= 0:
            return []
        largest = self._largest()
        if largest is None:
            return None
        part, own = self._parts[largest], self._parts.get(account, 0) + max(size, self._least)
        victims: list[str] = []
        for key in reversed(self._keys[largest]):
            if part <= own or largest == account:
                return None
            victims.append(key)
            part -= max(self._sizes[key], self._least)
            surplus -= self._sizes[key]
            if len(victims) >= entries and surplus <= 0:
                return victims
        return None

    def _push(self, account: Hashable) -> None:
        self._pushes += 1
        heapq.heappush(self._heap, (-self._parts[account], self._pushes, account))
        if len(self._heap) > 2 * len(self._parts) + SPARE:
            self._heap = [(-part, place, account) for place, (account, part) in enumerate(self._parts.items())]
            heapq.heapify(self._heap)

    def _largest(self) -> Hashable | None:
        while self._heap:
            part, place, account = self._heap[0]
            now = self._parts.get(account)
            if now == -part:
                return account
            if now is None or now > -part:  # an entry that is up to date stands elsewhere in the heap, or none does
                heapq.heappop(self._heap)
            else:
                heapq.heapreplace(self._heap, (-now, place, account))
        return None
