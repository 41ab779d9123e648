"""Rows of jobs beside interactive requests: what they get, what they cost, and what waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from apportion.router.batch.messages import Decision, Done, Refusal, RouteItem
from apportion.router.batch.money.spending import Spending
from apportion.router.budget import Account, Job, Limit, Scope, Window, from_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.limits import job_key
from apportion.router.budget.standing import Balance
from apportion.router.errors import BudgetExceededError, BudgetExhaustedError
from tests.router.batch.plain_room import LIMITS, Clock, PlainRoom, items, until

# Of `small`: 10 tokens in and 5 out at a USD a million each. Worst case with max_tokens 20: 30e-6 USD.
JOB = Job("job")
COST_NANO, WORST_NANO = 15_000, 30_000


def rows(count: int, job: Job = JOB, first: int = 0, model: str = "small") -> list[RouteItem]:
    account = Account("key", None, job)
    return [RouteItem(f"{job.id}-{first + i}", model=model, max_tokens=20, account=account) for i in range(count)]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[BudgetLedger]:
    made = BudgetLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield made
    made.close()


def with_money(ledger: BudgetLedger, *limits: Limit) -> PlainRoom:
    clock = Clock(1e9)
    return PlainRoom(spending=Spending(ledger, 300.0, limits=limits, clock=clock), clock=clock)


async def job_balance(ledger: BudgetLedger, room: PlainRoom, job: str = "job") -> Balance:
    assert room.spending is not None
    await room.spending.flush()
    return ledger.statement(now_s=room.clock(), scopes=[Scope.job]).balance(job_key(job))


async def test_bulk_fills_what_is_free_but_for_the_reserve() -> None:
    room = PlainRoom()
    room.join(small=16)
    room.submit(*rows(20))
    await until(lambda: len(room.told) == 10)
    verdicts = await room.verdicts(*items(6, model="small"))
    assert all(isinstance(verdict, Decision) for verdict in verdicts)
    assert room.scheduler.waiting_bulk == 10
    assert room.scheduler.waiting == 0


async def test_what_is_freed_goes_to_the_interactive_requests_that_wait() -> None:
    room = PlainRoom()
    room.join(small=16)
    room.submit(*rows(12))
    await until(lambda: len(room.told) == 10)
    room.submit(*items(9, model="small"))
    await until(lambda: len(room.told) == 16)  # the reserve's six
    for number in range(10):
        room.end(Done(f"job-{number}", 1e-6))
        room.scheduler.wake()
        await asyncio.sleep(0.02)
    await until(lambda: "r8" in room.told)
    # Seven are free then, and six of them are the reserve's.
    await until(lambda: "job-10" in room.told)
    assert "job-11" not in room.told


async def test_no_interactive_request_waits_in_the_queue_behind_rows() -> None:
    room = PlainRoom()
    room.join(small=16)
    room.submit(*rows(4_000))
    await until(lambda: len(room.told) >= 10)
    verdicts = await room.verdicts(*items(4, model="small"))
    assert all(isinstance(verdict, Decision) for verdict in verdicts)


async def test_jobs_take_turns() -> None:
    room = PlainRoom()
    room.join(small=16)
    room.submit(*rows(16))
    await until(lambda: len(room.told) == 10)
    room.submit(*rows(16, Job("other")))
    for number in range(8):
        room.end(Done(f"job-{number}", 1e-6))
        room.scheduler.wake()
        await asyncio.sleep(0.02)
    assert sum(name.startswith("other") for name in room.told) >= 3


async def test_a_row_costs_its_share_of_the_price(ledger: BudgetLedger) -> None:
    clock = Clock(1e9)
    limits = replace(LIMITS, bulk_price_factor=0.5)
    room = PlainRoom(limits=limits, spending=Spending(ledger, 300.0, clock=clock), clock=clock)
    room.join(small=16)
    [verdict] = await room.verdicts(*rows(1))
    assert isinstance(verdict, Decision)
    assert verdict.price is not None
    assert verdict.price.output_usd_per_million == 0.5
    assert verdict.cost_usd == pytest.approx(from_nano(COST_NANO) / 2)
    assert await job_balance(ledger, room) == Balance(0, WORST_NANO // 2)
    [verdict] = await room.verdicts(*items(1, model="small"))
    assert isinstance(verdict, Decision)
    assert verdict.price == room.policy.price_of("small")


async def test_a_job_spends_its_budget_and_no_more(ledger: BudgetLedger) -> None:
    room = with_money(ledger)
    room.join(small=64)
    job = Job("job", 4 * WORST_NANO + 1)
    verdicts = await room.verdicts(*rows(6, job))
    refused = [verdict.error for verdict in verdicts if isinstance(verdict, Refusal)]
    # The money of the four is set aside, and some of it will be free again.
    assert [type(error) for error in refused] == [BudgetExhaustedError] * 2
    for number in range(4):
        room.end(Done(f"job-{number}", from_nano(WORST_NANO)))
    assert await job_balance(ledger, room) == Balance(4 * WORST_NANO, 0)
    [verdict] = await room.verdicts(*rows(1, job, first=6))
    assert isinstance(verdict, Refusal)
    assert type(verdict.error) is BudgetExceededError
    assert "job 'job'" in verdict.error.message
    [verdict] = await room.verdicts(*rows(1, Job("other", WORST_NANO)))
    assert isinstance(verdict, Decision)


async def test_the_limits_of_its_key_hold_for_a_job_as_well(ledger: BudgetLedger) -> None:
    room = with_money(ledger, Limit(Scope.key, Window.total, 2 * WORST_NANO, "key"))
    room.join(small=64)
    verdicts = await room.verdicts(*rows(3, Job("job", 100 * WORST_NANO)))
    assert [isinstance(verdict, Refusal) for verdict in verdicts] == [False, False, True]


async def test_what_is_given_up_costs_the_job_its_worst_case_and_what_was_not_sent_nothing(
    ledger: BudgetLedger,
) -> None:
    room = with_money(ledger)
    room.join(small=64)
    await room.verdicts(*rows(3))
    room.reservations.settle(Done("job-0", 4e-6))
    room.reservations.release("job-1")
    room.reservations.settle(Done("job-2", None))
    room.clock.now_s += 10
    room.reservations.charge_overdue()
    assert await job_balance(ledger, room) == Balance(4_000 + WORST_NANO, 0)


async def test_a_limit_of_all_jobs_holds_for_each(ledger: BudgetLedger) -> None:
    room = with_money(ledger, Limit(Scope.job, Window.total, 2 * WORST_NANO))
    room.join(small=64)
    verdicts = await room.verdicts(*rows(3), *rows(2, Job("other")))
    assert [isinstance(verdict, Refusal) for verdict in verdicts] == [False, False, True, False, False]
    assert isinstance((await room.verdicts(*items(1, model="small")))[0], Decision)
