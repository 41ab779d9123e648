"""Who holds how much of the queue: its bounds, and whose place is taken when it is full."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Hashable

SPARE = 1_000  # entries of no use that the heap may have besides those of use


class Holdings:
    """Entries by account.

    Args:
        max_entries: most entries that can be held.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries = 0
        self._keys: dict[Hashable, OrderedDict[str, None]] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._pushes = 0

    def __len__(self) -> int:
        return self._entries

    @property
    def accounts(self) -> int:
        """How many hold something."""
        return len(self._keys)

    def of(self, account: Hashable) -> int:
        """Entries that the account holds."""
        return len(self._keys.get(account, ()))

    def add(self, key: str, account: Hashable, *, in_front: bool = False) -> None:
        """Takes an entry, as the account's newest or its oldest."""
        self._entries += 1
        keys = self._keys.setdefault(account, OrderedDict())
        keys[key] = None
        if in_front:
            keys.move_to_end(key, last=False)
        self._push(account)

    def remove(self, key: str, account: Hashable) -> None:
        """Gives an entry's place back."""
        self._entries -= 1
        del self._keys[account][key]
        if not self._keys[account]:
            del self._keys[account]

    def make_room(self, account: Hashable) -> list[str] | None:
        """Which entries have to go for one more of the account: the newest ones of whoever holds most.

        Returns:
            Keys, none if there is room; None if nobody holds more than the account would.
        """
        surplus = self._entries + 1 - self._max_entries
        if surplus <= 0:
            return []
        largest = self._largest()
        if largest is None or largest == account or self.of(largest) - surplus <= self.of(account):
            return None
        return list(itertools.islice(reversed(self._keys[largest]), surplus))

    def _push(self, account: Hashable) -> None:
        self._pushes += 1
        heapq.heappush(self._heap, (-self.of(account), self._pushes, account))
        if len(self._heap) > 2 * len(self._keys) + SPARE:
            self._heap = [(-len(keys), place, account) for place, (account, keys) in enumerate(self._keys.items())]
            heapq.heapify(self._heap)

    def _largest(self) -> Hashable | None:
        while self._heap:
            part, place, account = self._heap[0]
            now = self.of(account)
            if now == -part:
                return account
            if not now or now > -part:  # an entry that is up to date stands elsewhere in the heap, or none does
                heapq.heappop(self._heap)
            else:
                heapq.heapreplace(self._heap, (-now, place, account))
        return None
