"""What requests have cost whose end did not tell: asked of their engines, charged once."""

from pathlib import Path

import pytest

from apportion.router.batch.messages import Decision, Done, Ending
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.reservations.unsettled import WORD_S
from apportion.router.budget import Limit, Scope, Window, from_nano, to_nano
from apportion.router.budget.ledger import BudgetLedger
from tests.router.batch.plain_room import Clock, PlainRoom, items


@pytest.fixture
def room(tmp_path: Path) -> PlainRoom:
    clock = Clock()
    ledger = BudgetLedger(f"sqlite:///{tmp_path / 'b.db'}")
    limits = [Limit(Scope.service, Window.total, to_nano(1.0))]
    spending = Spending(ledger, 300.0, limits=limits, clock=clock)
    room = PlainRoom(spending=spending, clock=clock)
    room.join(small=4, large=4)
    return room


async def balance(room: PlainRoom) -> tuple[float, float]:
    await room.reservations.spending.flush()
    budget = (await room.reservations.spending.statement())["budget"]
    return budget["spent_usd"], budget["reserved_usd"]


async def ended(room: PlainRoom, ending: Ending = Ending.given_up) -> str:
    """A request that has ended on a replica without telling its cost; the replica's name."""
    (decision,) = await room.verdicts(*items(1, model="large", max_tokens=50))
    assert isinstance(decision, Decision)
    assert decision.replica is not None
    room.reservations.settle(Done(decision.id, None, ending))
    return decision.replica


@pytest.mark.parametrize("ending", [Ending.given_up, Ending.engine_failed, Ending.connection_lost, Ending.late])
async def test_the_engine_is_asked_and_its_word_is_charged_to_the_nano(room: PlainRoom, ending: Ending) -> None:
    replica = await ended(room, ending)
    assert room.fleet.free_slots().tolist() == [4, 4], "only the money waits"
    spent_usd, reserved_usd = await balance(room)
    assert spent_usd == 0
    assert reserved_usd > 0
    assert room.reservations.asked_of("small-0") == ()
    assert room.reservations.asked_of(replica) == ("r0",)
    room.reservations.told(replica, {"r0": 123e-9, "unknown": 1.0})
    assert await balance(room) == (from_nano(123), 0.0)
    assert room.reservations.asked_of(replica) == ()
    assert room.spending.tally.spent_usd == pytest.approx(123e-9)


async def test_an_engine_that_does_not_say_in_time_costs_the_worst_case_and_a_late_word_nothing(
    room: PlainRoom,
) -> None:
    replica = await ended(room)
    _, reserved_usd = await balance(room)
    room.clock.now_s += WORD_S - 0.1
    room.reservations.charge_overdue()
    assert await balance(room) == (0.0, reserved_usd)
    room.clock.now_s += 0.2
    room.reservations.charge_overdue()
    assert await balance(room) == (reserved_usd, 0.0)
    room.reservations.told(replica, {"r0": 123e-9})
    room.reservations.settle(Done("r0", 123e-9))
    assert await balance(room) == (reserved_usd, 0.0)


async def test_another_engine_has_no_say(room: PlainRoom) -> None:
    await ended(room)
    room.reservations.told("small-0", {"r0": 0.0})
    spent_usd, reserved_usd = await balance(room)
    assert spent_usd == 0
    assert reserved_usd > 0


@pytest.mark.parametrize(
    "later",
    [Done("r0", None, Ending.unsent), Done("r0", None, Ending.given_up), Done("r0", 500e-9)],
    ids=["as if unsent", "again", "with its cost"],
)
async def test_an_end_that_is_told_twice_is_charged_once(room: PlainRoom, later: Done) -> None:
    replica = await ended(room)
    room.reservations.settle(later)
    room.reservations.told(replica, {"r0": 500e-9})
    room.reservations.release("r0")
    assert await balance(room) == (from_nano(500), 0.0)


async def test_what_no_engine_has_seen_costs_nothing_at_once(room: PlainRoom) -> None:
    replica = await ended(room, Ending.unreachable)
    assert room.reservations.asked_of(replica) == ()
    assert await balance(room) == (0.0, 0.0)
