"""Money in the batch room, apart from any router."""

from __future__ import annotations

from pathlib import Path

import pytest

from apportion.router.batch.money.spending import Spending
from apportion.router.batch.money.steady_clock import SteadyClock
from apportion.router.budget import Account, Limit, Scope, Window
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.standing import Claim
from apportion.router.errors import LedgerError
from tests.router.batch.plain_room import POLICY, Clock, estimates, items

LIMIT = Limit(Scope.service, Window.day, 1_000_000_000)


def spending(folder: Path, clock: Clock) -> Spending:
    return Spending(BudgetLedger(f"sqlite:///{folder / 'budget.db'}"), 300.0, limits=[LIMIT], clock=clock)


async def test_a_closed_ledger_does_not_mean_that_there_are_no_limits(tmp_path: Path) -> None:
    money = spending(tmp_path, Clock())
    assert await money.look(items(1), estimates(1), POLICY) is not None
    money.close()
    money.close()
    with pytest.raises(LedgerError):
        await money.look(items(1), estimates(1), POLICY)
    with pytest.raises(LedgerError):
        await money.reserve([Claim("r", Account(), "small", 1)])
    money.settle("r", 1e-6)
    assert not await money.flush()


async def test_jumps_of_the_clock_charge_nothing_that_is_in_flight_and_refill_nothing(tmp_path: Path) -> None:
    wall, mono = Clock(1_700_000_000.0), Clock(0.0)
    clock = SteadyClock(wall, mono)
    ledger = BudgetLedger(f"sqlite:///{tmp_path / 'budget.db'}")
    money = Spending(ledger, 300.0, limits=[LIMIT], clock=clock, steady_s=clock.steady_s)

    async def run(seconds: int) -> None:
        for _ in range(0, seconds, 60):
            wall.now_s, mono.now_s = wall.now_s + 60, mono.now_s + 60
            await money.expire()

    async def spent_usd() -> tuple[float, float]:
        budget = (await money.statement())["budget"]
        return budget["limits"][0]["spent_usd"], budget["limits"][0]["reserved_usd"]

    await run(600)
    assert await money.reserve([Claim("r", Account(), "small", LIMIT.nano_usd)]) == [None]
    for jump_s in (86_400.0, -86_400.0, 400 * 86_400.0, -400 * 86_400.0):
        wall.now_s += jump_s
        await run(60)
        assert await spent_usd() == (0.0, 1.0)
        assert (await money.reserve([Claim("other", Account(), "small", 1)]))[0] is not None
    money.settle("r", 0.25)
    await run(60)
    assert await spent_usd() == (0.25, 0.0)

    # One that lasts is followed, but what was reserved before has its time all the same.
    wall.now_s += 86_400.0
    await run(540)
    assert await money.reserve([Claim("late", Account(), "small", LIMIT.nano_usd // 2)]) == [None]
    await run(120)
    total = money._ledger._ledger.look([Account()], ["small"], now_s=clock(), ends={}).total()
    assert (total.spent_nano, total.reserved_nano) == (250_000_000, 500_000_000)
    await run(600)
    total = money._ledger._ledger.look([Account()], ["small"], now_s=clock(), ends={}).total()
    assert (total.spent_nano, total.reserved_nano) == (750_000_000, 0)
    money.close()
