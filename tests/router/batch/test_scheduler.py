"""Whole batches from items to decisions, with plain objects only."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apportion.router.batch.messages import Decision, Done, Ending, Refusal, RouteItem, RoutingAsk
from apportion.router.batch.policy import Policy, ServedModel
from apportion.router.batch.spending import Spending
from apportion.router.batch.unsettled import WORD_S
from apportion.router.budget import Limit, Scope, Window, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.standing import Standing
from apportion.router.errors import LedgerError, OverloadedError
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice
from tests.router.batch.plain_room import LIMITS, MODELS, POLICY, Clock, PlainRoom, estimates, items, until


async def predicted(asked: Sequence[RouteItem], _prices: Sequence[ModelPrice]) -> Estimates:
    return estimates(len(asked))


def limited(folder: Path, usd: float, clock: Clock) -> Spending:
    ledger = BudgetLedger(f"sqlite:///{folder / 'ledger.sqlite'}")
    return Spending(ledger, 300.0, limits=[Limit(Scope.service, Window.total, to_nano(usd))], clock=clock)


def holds_nothing(room: PlainRoom) -> bool:
    return room.fleet.in_flight == 0 and room.spending.tally.planned_usd == 0


async def test_a_batch_goes_from_items_to_decisions() -> None:
    room = PlainRoom(predict=predicted)
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
    room = PlainRoom(predict=predicted)
    room.join(small=1, large=1)
    room.submit(*items(3))
    await until(lambda: len(room.told) == 2)
    assert room.scheduler.waiting == 1
    room.reservations.settle(Done("r0", 1e-6))
    room.scheduler.wake()
    assert isinstance(await room.verdict("r2"), Decision)


async def test_a_withdrawn_request_holds_nothing() -> None:
    asked = asyncio.Event()

    async def slow(of: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        asked.set()
        await asyncio.sleep(0.02)
        return await predicted(of, prices)

    room = PlainRoom(predict=slow)
    room.join(small=4, large=4)
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
    room = PlainRoom(predict=predicted, spending=limited(tmp_path, 20e-6, clock), clock=clock)
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
    room = PlainRoom(predict=predicted, spending=limited(tmp_path, 1.0, clock), clock=clock)
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
    monkeypatch.setattr("apportion.router.batch.spending.STATEMENT_PATIENCE_S", 0.05)
    may_read = threading.Event()

    class Stalling(BudgetLedger):
        def statement(self, **options: Any) -> Standing:
            assert may_read.wait(10)
            return super().statement(**options)

    clock = Clock(1_800_000_000.0)
    spending = Spending(Stalling(f"sqlite:///{tmp_path}/ledger.sqlite"), 300.0, clock=clock)
    room = PlainRoom(predict=predicted, spending=spending, clock=clock)
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
    poison = replace(items(6)[5], content="a secret of the sender's", max_tokens=10**400)  # no float holds it
    verdicts = await room.verdicts(*items(5), poison)
    assert [type(verdict) for verdict in verdicts[:5]] == [Decision] * 5
    refusal = verdicts[5]
    assert isinstance(refusal, Refusal)
    assert "secret" not in caplog.text + refusal.error.message


async def test_one_policy_holds_for_a_batch_from_its_estimates_to_its_claims(tmp_path: Path) -> None:
    """Prices that change while a batch is planned must not let its claims differ from its estimates."""
    clock = Clock(1_800_000_000.0)
    dear = tuple(ServedModel(m.name, ModelPrice(1000.0, 1000.0), m.max_model_len) for m in MODELS)

    async def while_prices_change(asked: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        room.scheduler.policy = Policy(dear, POLICY.strategy)
        return await predicted(asked, prices)

    room = PlainRoom(predict=while_prices_change, spending=limited(tmp_path, 1.0, clock), clock=clock)
    room.join(small=4, large=4)
    (verdict,) = await room.verdicts(*items(1, max_tokens=5))
    assert isinstance(verdict, Decision)
    assert verdict.price == POLICY.price_of("large")
    assert (await room.spending.statement())["budget"]["reserved_usd"] == pytest.approx(15 * 10e-6)
    room.spending.close()


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    room = PlainRoom(predict=predicted, limits=replace(LIMITS, max_queue=2))
    (first, second, third) = items(3)
    room.submit(first, second, third)
    verdict = await room.verdict("r2")
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, OverloadedError)


async def test_a_preview_takes_nothing() -> None:
    room = PlainRoom(predict=predicted)
    room.join(small=1, large=1)
    verdicts = await room.scheduler.preview(items(2, ask=RoutingAsk()))
    assert all(isinstance(verdict, Decision) and len(verdict.candidates) == 2 for verdict in verdicts)
    assert room.fleet.free_slots().tolist() == [1, 1]


async def test_a_request_that_waits_is_planned_at_the_prices_of_its_turn() -> None:
    async def by_price(asked: Sequence[RouteItem], prices: Sequence[ModelPrice]) -> Estimates:
        return estimates(len(asked), cost=tuple(price.output_usd_per_million / 1e6 for price in prices))

    room = PlainRoom(predict=by_price)
    room.join(small=1, large=1)
    room.submit(*items(2), RouteItem("waits", "hello", ask=RoutingAsk(max_cost_usd=2e-6)))
    await until(lambda: len(room.told) == 2)
    dear = tuple(ServedModel(m.name, ModelPrice(1000.0, 1000.0), m.max_model_len) for m in MODELS)
    room.scheduler.policy = Policy(dear, POLICY.strategy)
    room.reservations.settle(Done("r0", 1e-6))
    room.reservations.settle(Done("r1", 1e-6))
    room.scheduler.wake()
    verdict = await room.verdict("waits")
    assert isinstance(verdict, Refusal), "it costs more than the request allows now"


async def test_a_request_of_many_answers_blocks_nobody_while_it_waits_and_gets_its_turn() -> None:
    room = PlainRoom(predict=predicted)
    room.join(small=8)
    first = items(5)
    await room.verdicts(*first)
    many = RouteItem("many", "hello", sequences=8)
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
    room = PlainRoom(predict=predicted)
    room.join(small=4, large=4)
    for cost_usd in (float("nan"), -1.0, float("inf")):
        (verdict,) = await room.verdicts(replace(items(1)[0], id=str(cost_usd)))
        room.reservations.settle(Done(verdict.id, cost_usd))
        room.reservations.told("large-0", {verdict.id: cost_usd})
        room.reservations.told("small-0", {verdict.id: cost_usd})
    assert room.spending.tally.spent_usd == 0
    room.clock.now_s += WORD_S + 1
    room.reservations.charge_overdue()
    assert room.spending.tally.spent_usd == pytest.approx(3e-5), "as planned"
