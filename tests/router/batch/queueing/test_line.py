import math
import weakref
from typing import ClassVar

from apportion.router.batch.queueing.line import SPARE_CLOCKS, FairLine, Place


class Account:
    """Counts how often any of its kind is looked up, and knows which are still there."""

    looked_up = 0
    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive.add(self)

    def __hash__(self) -> int:
        Account.looked_up += 1
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and self.name == other.name


def serve(line: FairLine, number: int, place: Place) -> None:
    """One request comes, has its turn at once, and is answered."""
    line.put(f"r{number}", place)
    assert list(line.take({None: math.inf})) == [f"r{number}"]
    line.served(place)


def test_however_many_accounts_come_once_a_turn_costs_the_same_and_few_are_remembered() -> None:
    line, accounts = FairLine(), 3 * SPARE_CLOCKS
    for number in range(accounts):
        serve(line, number, Place(Account(f"a{number}"), None, float(number)))
    assert Account.looked_up / accounts < 60
    assert len(Account.alive) <= SPARE_CLOCKS + 10


def test_who_is_far_ahead_is_not_forgotten_for_those_who_came_once() -> None:
    line = FairLine()
    line.put("others", Place("others", None, 0.0, 1.0))
    for _ in range(100):  # while others wait: these were its turns
        line.charge(Place("flood", None, 0.0, 1.0))
    for number in range(2 * SPARE_CLOCKS):
        place = Place(f"a{number}", "lane", float(number))
        line.put(f"r{number}", place)
        assert list(line.take({"lane": math.inf})) == [f"r{number}"]
    line.put("flood", Place("flood", "lane", 0.0))
    line.put("new", Place("new", "lane", 1.0))
    assert list(line.take({"lane": math.inf})) == ["new", "flood"]
