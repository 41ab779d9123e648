"""Whole batches from items to decisions, with plain objects only."""

import asyncio
import contextlib
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apportion.router.assignment import Assignment, BatchProblem, Strategy, assign
from apportion.router.batch.messages import Decision, Done, Ending, EngineReplica, Refusal, RouteItem, RoutingAsk
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.policy import Policy, ServedModel
from apportion.router.batch.reservations.unsettled import WORD_S
from apportion.router.batch.scheduling.decider import MAX_STRATEGIES
from apportion.router.budget import Account, Limit, Scope, Window, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.standing import Standing
from apportion.router.errors import LedgerError, OverloadedError, UnavailableError
from apportion.router.prices import ModelPrice
from tests.router.batch.plain_room import LIMITS, MODELS, POLICY, Clock, PlainRoom, items, until


def limited(folder: Path, usd: float, clock: Clock) -> Spending:
    ledger = BudgetLedger(f"sqlite:///{folder / 'ledger.sqlite'}")
    return Spending(ledger, 300.0, limits=[Limit(Scope.service, Window.total, to_nano(usd))], clock=clock)


def holds_nothing(room: PlainRoom) -> bool:
    return room.fleet.in_flight == 0 and room.spending.tally.planned_usd == 0


async def test_a_batch_goes_from_items_to_decisions() -> None:
    room = PlainRoom()
    room.join(small=4, large=1)
    verdicts = await room.verdicts(*items(3))
    assert [verdict.model for verdict in verdicts].count("large") == 1
    first = verdicts[0]
    assert isinstance(first, Decision)
    assert (first.rung, first.batch.size, first.url) == ("mip", 3, f"http://{first.model}")
    assert first.price == POLICY.price_of(first.model)
    assert room.fleet.free_slots().tolist() == [2, 0]
    for verdict in verdicts:
        room.reservations.settle(Done(verdict.id, 1e-6))
    assert holds_nothing(room)


async def test_what_has_no_slot_waits_and_goes_when_one_is_freed() -> None:
    room = PlainRoom()
    room.join(small=1, large=1)
    room.submit(*items(3))
    await until(lambda: len(room.told) == 2)
    assert room.scheduler.waiting == 1
    room.reservations.settle(Done("r0", 1e-6))
    room.scheduler.wake()
    assert isinstance(await room.verdict("r2"), Decision)


async def test_a_withdrawn_request_holds_nothing() -> None:
    asked = asyncio.Event()

    async def slow(problem: BatchProblem, strategy: Strategy) -> Assignment:
        asked.set()
        await asyncio.sleep(0.02)
        return assign(problem, strategy)

    room = PlainRoom(solver=slow, solver_timeout_s=5.0)
    room.join(small=1, large=1)
    entries = room.submit(*items(2))
    await asked.wait()
    room.scheduler.withdraw(entries[0])
    await room.verdict("r1")
    assert list(room.told) == ["r1"]
    room.reservations.settle(Done("r1", 1e-6))
    assert holds_nothing(room)


async def test_money_and_slots_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    clock = Clock(1_800_000_000.0)
    # Room for one worst case on the small model: 10 tokens in, 5 out.
    room = PlainRoom(spending=limited(tmp_path, 20e-6, clock), clock=clock)
    room.join(small=4, large=4)
    verdicts = await room.verdicts(*items(2, max_tokens=5))
    assert sorted(type(verdict).__name__ for verdict in verdicts) == ["Decision", "Refusal"]
    assert room.fleet.in_flight == 1
    paid = next(verdict for verdict in verdicts if isinstance(verdict, Decision))
    room.reservations.settle(Done(paid.id, None, Ending.unsent))
    await room.spending.flush()
    assert holds_nothing(room)
    assert (await room.spending.statement())["budget"]["reserved_usd"] == 0
    room.spending.close()


async def test_without_the_ledger_nobody_holds_a_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.router.budget.schema.BUSY_TIMEOUT_S", 0.05)
    clock = Clock(1_800_000_000.0)
    room = PlainRoom(spending=limited(tmp_path, 1.0, clock), clock=clock)
    room.join(small=4, large=4)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as other:
        other.execute("BEGIN EXCLUSIVE")
        (verdict,) = await room.verdicts(*items(1))
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, LedgerError)
    assert room.fleet.in_flight == 0
    room.spending.close()


async def test_a_database_that_stalls_holds_up_no_look_at_the_money(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apportion.router.batch.money.spending.STATEMENT_PATIENCE_S", 0.05)
    may_read = threading.Event()

    class Stalling(BudgetLedger):
        def statement(self, **options: Any) -> Standing:
            assert may_read.wait(10)
            return super().statement(**options)

    clock = Clock(1_800_000_000.0)
    spending = Spending(Stalling(f"sqlite:///{tmp_path}/ledger.sqlite"), 300.0, clock=clock)
    room = PlainRoom(spending=spending, clock=clock)
    room.join(small=4, large=4)
    may_read.set()
    assert (await spending.statement())["budget"]["age_s"] == 0
    may_read.clear()
    clock.now_s += 7
    assert (await spending.statement())["budget"]["age_s"] == 7
    (verdict,) = await room.verdicts(*items(1, max_tokens=5))
    assert isinstance(verdict, Decision), "who only looks holds up no reservation"
    may_read.set()
    budget = (await spending.statement())["budget"]
    assert (budget["age_s"], budget["reserved_usd"]) == (0, pytest.approx(15 * 10e-6))
    spending.close()


async def test_a_request_that_cannot_be_planned_is_refused_alone(caplog: pytest.LogCaptureFixture) -> None:
    room = PlainRoom()
    room.join(small=8, large=8)
    poison = replace(items(6)[5], id="a secret of the sender's", max_tokens=10**400)  # no float holds it
    verdicts = await room.verdicts(*items(5), poison)
    assert [type(verdict) for verdict in verdicts[:5]] == [Decision] * 5
    refusal = verdicts[5]
    assert isinstance(refusal, Refusal)
    assert "secret" not in caplog.text + refusal.error.message


async def test_one_policy_holds_for_a_batch_from_its_prices_to_its_claims(tmp_path: Path) -> None:
    """Prices that change while a batch is planned must not let its claims differ from its estimates."""
    clock = Clock(1_800_000_000.0)
    dear = tuple(ServedModel(m.name, ModelPrice(1000.0, 1000.0), m.max_model_len) for m in MODELS)

    async def while_prices_change(problem: BatchProblem, strategy: Strategy) -> Assignment:
        room.scheduler.policy = Policy(dear, POLICY.strategy)
        return assign(problem, strategy)

    room = PlainRoom(solver=while_prices_change, spending=limited(tmp_path, 1.0, clock), clock=clock)
    room.join(small=1, large=1)
    verdicts = await room.verdicts(*items(2, max_tokens=5))
    assert {verdict.model: verdict.price for verdict in verdicts} == dict(zip(POLICY.names, POLICY.prices, strict=True))
    assert (await room.spending.statement())["budget"]["reserved_usd"] == pytest.approx(15 * 11e-6)
    room.spending.close()


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    room = PlainRoom(limits=replace(LIMITS, max_queue=2))
    (first, second, third) = items(3)
    room.submit(first, second, third)
    verdict = await room.verdict("r2")
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, OverloadedError)
    await until(lambda: len(room.told) == 3)


async def test_a_preview_takes_nothing() -> None:
    room = PlainRoom()
    room.join(small=1, large=1)
    verdicts = await room.previewed(*items(2, ask=RoutingAsk()))
    assert all(isinstance(verdict, Decision) and len(verdict.candidates) == 2 for verdict in verdicts)
    assert room.fleet.free_slots().tolist() == [1, 1]


async def test_a_request_that_waits_is_planned_at_the_prices_of_its_turn() -> None:
    room = PlainRoom()
    room.join(small=1, large=1)
    room.submit(*items(2), RouteItem("waits", ask=RoutingAsk(max_cost_usd=2e-5)))
    await until(lambda: len(room.told) == 2)
    dear = tuple(ServedModel(m.name, ModelPrice(1000.0, 1000.0), m.max_model_len) for m in MODELS)
    room.scheduler.policy = Policy(dear, POLICY.strategy)
    room.reservations.settle(Done("r0", 1e-6))
    room.reservations.settle(Done("r1", 1e-6))
    room.scheduler.wake()
    verdict = await room.verdict("waits")
    assert isinstance(verdict, Refusal), "it costs more than the request allows now"


async def test_a_request_of_many_answers_blocks_nobody_while_it_waits_and_gets_its_turn() -> None:
    room = PlainRoom()
    room.join(small=8)
    first = items(5)
    await room.verdicts(*first)
    many = RouteItem("many", sequences=8)
    (waiting,) = room.submit(many)
    others = [replace(one, id=f"other-{one.id}") for one in items(3)]
    assert all(isinstance(verdict, Decision) for verdict in await room.verdicts(*others))
    assert "many" not in room.told
    for one in [*first, *others]:
        room.reservations.settle(Done(one.id, 1e-6))
    room.scheduler.wake()
    assert isinstance(await room.verdict("many"), Decision)
    assert not waiting.cancelled


async def test_a_cost_that_no_answer_can_have_counts_as_not_told() -> None:
    room = PlainRoom()
    room.join(small=4, large=4)
    for cost_usd in (float("nan"), -1.0, float("inf")):
        (verdict,) = await room.verdicts(replace(items(1)[0], id=str(cost_usd)))
        room.reservations.settle(Done(verdict.id, cost_usd))
        room.reservations.told("large-0", {verdict.id: cost_usd})
        room.reservations.told("small-0", {verdict.id: cost_usd})
    assert room.spending.tally.spent_usd == 0
    room.clock.now_s += WORD_S + 1
    room.reservations.charge_overdue()
    assert room.spending.tally.spent_usd == pytest.approx(4.5e-4), "as planned"


def odd(number: int) -> RouteItem:
    """A request with a strategy that no other has."""
    return RouteItem(f"odd{number}", ask=RoutingAsk("per_query", {"price": number + 1.0}))


async def test_plain_requests_are_told_before_the_strategies_of_others_are_solved() -> None:
    goes_on = asyncio.Event()

    async def slow(problem: BatchProblem, strategy: Strategy) -> Assignment:
        await goes_on.wait()
        return assign(problem, strategy)

    room = PlainRoom(solver=slow, solver_timeout_s=5.0)
    room.join(small=20, large=20)
    room.submit(odd(0), *items(3), odd(1))
    await until(lambda: len(room.told) == 3)
    assert set(room.told) == {"r0", "r1", "r2"}
    goes_on.set()
    await until(lambda: len(room.told) == 5)


async def test_so_many_strategies_share_a_batch_and_the_others_come_with_the_next() -> None:
    solved: list[Strategy] = []
    solved_before_plain = 0

    async def count(problem: BatchProblem, strategy: Strategy) -> Assignment:
        nonlocal solved_before_plain
        solved.append(strategy)
        solved_before_plain += "r0" not in room.told
        if len(solved) == 1:
            room.submit(*items(1))
        return assign(problem, strategy)

    room = PlainRoom(solver=count)
    room.join(small=100, large=100)
    room.submit(*(odd(number) for number in range(30)))
    await until(lambda: len(room.told) == 31)
    assert solved_before_plain == MAX_STRATEGIES
    assert [strategy.price for strategy in solved] == [number + 1.0 for number in range(30)], "in the order of the line"


async def test_a_flood_of_one_account_delays_another_by_no_more_than_its_turn() -> None:
    room = PlainRoom(limits=replace(LIMITS, max_queue=5_000))
    room.join(small=4, large=4)
    flood, other = Account("flood"), Account("other")
    room.submit(*(RouteItem(f"flood{number}", account=flood) for number in range(4_000)))
    await until(lambda: len(room.told) == 8)
    room.submit(*(RouteItem(f"other{number}", account=other, priority=-1) for number in range(20)))
    ended = 0
    while sum(name.startswith("other") for name in room.told) < 20:
        decided = len(room.told)
        for request_id in list(room.told)[ended : ended + 8]:
            room.reservations.settle(Done(request_id, 1e-6))
        ended += 8
        room.scheduler.wake()
        await until(lambda before=decided: len(room.told) == before + 8)
    assert ended <= 8 * 6, "each account has half of eight slots: twenty requests take five turns"


async def test_a_full_queue_sheds_those_of_the_account_that_holds_most() -> None:
    room = PlainRoom(limits=replace(LIMITS, max_queue=10))
    room.join(small=1)
    flood = [RouteItem(f"flood{number}", model="small", account=Account("flood")) for number in range(10)]
    room.submit(*flood)
    await until(lambda: len(room.told) == 1)
    room.submit(RouteItem("flood10", model="small", account=Account("flood")))
    room.submit(RouteItem("other", model="small", account=Account("other")))
    shed = await room.verdict("flood10")
    assert isinstance(shed, Refusal)
    assert isinstance(shed.error, OverloadedError)
    assert "other" not in room.told
    room.reservations.settle(Done("flood0", 1e-6))
    room.scheduler.wake()
    await until(lambda: len(room.told) == 3)
    assert room.scheduler.waiting == 9


async def test_those_who_wait_for_a_full_model_hold_up_nobody() -> None:
    room = PlainRoom()
    room.join(small=1, large=8)
    full = [RouteItem(f"full{number}", model="small") for number in range(1_000)]
    room.submit(*full)
    await until(lambda: len(room.told) == 1 and room.scheduler.waiting == 999)
    verdicts = await room.verdicts(*items(4))
    assert all(isinstance(verdict, Decision) and verdict.model == "large" for verdict in verdicts)


async def test_what_nobody_is_left_to_answer_is_told_so() -> None:
    room = PlainRoom()
    room.join(small=1, large=1)
    room.submit(*(RouteItem(f"full{number}", model="small") for number in range(5)))
    await until(lambda: room.scheduler.waiting == 4)
    room.fleet.announce(EngineReplica("small-0", "small", "http://small", 1, draining=True))
    room.scheduler.wake()
    verdict = await room.verdict("full4")
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, UnavailableError)


async def test_a_request_of_many_answers_that_has_waited_long_has_slots_kept_behind_a_deep_queue() -> None:
    room = PlainRoom()
    room.join(small=8)
    room.submit(*items(8))
    await until(lambda: len(room.told) == 8)
    room.submit(RouteItem("many", sequences=8, account=Account("one")))
    others = [RouteItem(f"other{number}", account=Account("two")) for number in range(600)]
    room.submit(*others)
    await until(lambda: room.scheduler.waiting == 601)
    await asyncio.sleep(0.1)
    room.clock.now_s += 11
    for number in range(4):  # half of the replica
        room.reservations.settle(Done(f"r{number}", 1e-6))
        room.scheduler.wake()
        await asyncio.sleep(0.03)
    assert isinstance(await room.verdict("many"), Decision)
    assert not any(name.startswith("other") for name in room.told)
