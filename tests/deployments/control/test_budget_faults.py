"""A ledger that is slow, fails or breaks, behind the real Router and planner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apportion.deployments.ingress import link as link_module
from apportion.router.batch.messages import Done, Reply, Report, RoutingAsk
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.errors import LedgerError
from tests.deployments.control.money import Start, item, total
from tests.deployments.local_router import Line, report, worst_usd


async def test_a_ledger_that_does_not_answer_spends_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await start(total(1.0))
    tried: list[object] = []

    def broken(*arguments: object, **__: object) -> None:
        tried.append(arguments)
        raise LedgerError("gone")

    decision = await service.plan(item("before", model="wren"))
    with monkeypatch.context() as patched:
        patched.setattr(BudgetLedger, "look", broken)
        patched.setattr(BudgetLedger, "reserve", broken)
        patched.setattr(BudgetLedger, "settle", broken)
        assert await service.run(item("r")) == "ledger_unavailable"
        tried.clear()
        service.link.finish(Done(decision.id, worst_usd("wren", 10)))
        async with asyncio.timeout(10):
            while not tried:
                await asyncio.sleep(0.01)
    state = await service.idle_state()
    assert (state["in_flight"], state["budget"]["reserved_usd"]) == (0, 0)
    assert state["budget"]["spent_usd"] == pytest.approx(worst_usd("wren", 10), abs=1e-9)


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Clear, the ledger's transactions wait."""
    going, transact = threading.Event(), BudgetLedger._transact
    going.set()

    def wait_first(ledger: BudgetLedger, work: Callable[[Any], Any]) -> Any:
        going.wait()
        return transact(ledger, work)

    monkeypatch.setattr(BudgetLedger, "_transact", wait_first)
    yield going
    going.set()


async def test_no_verdict_waits_for_the_endings_that_came_with_it(start: Start, stall: threading.Event) -> None:
    service = await start(total(1.0))
    service.link = Line(service.router.exchange)
    await service.run(item("first"))
    stall.clear()
    told = report("other", 1, items=(item("r", ask=RoutingAsk(max_cost_usd=0.0)),), done=(Done("gone", 1e-6),))
    reply = await asyncio.wait_for(service.router.exchange(told, True), 2)
    assert [verdict.id for verdict in reply.verdicts] == ["r"]
    assert reply.settled == ()
    stall.set()
    async with asyncio.timeout(2):
        while (await service.router.exchange(report("other", 2), False)).settled != (1,):
            await asyncio.sleep(0.01)


async def test_a_ledger_that_fails_confirms_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await start(total(1.0))

    def fail(*_: Any) -> Any:
        raise LedgerError("broken")

    with monkeypatch.context() as broken:
        broken.setattr(BudgetLedger, "_transact", fail)
        await service.router.exchange(report("other", 1, done=(Done("r", 1e-6),)), False)
        await asyncio.sleep(0.1)
        assert (await service.router.exchange(report("other", 2), False)).settled == ()


async def test_a_stalled_ledger_leaves_nobody_decided_and_never_told(
    start: Start, stall: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value_s in {"EXCHANGE_TIMEOUT_S": 0.3, "RETRY_S": 0.05, "LATE_S": 0.4, "KEEPALIVE_S": 0.1}.items():
        monkeypatch.setattr(link_module, name, value_s)
    service = await start(total(1.0))

    async def lives_on(report: Report, wait: bool) -> Reply:
        """As a call of Serve's does whose caller has given up."""
        return await asyncio.shield(asyncio.create_task(service.router.exchange(report, wait)))

    service.link = Line(lives_on)
    clients = [asyncio.create_task(service.run(item(f"r{number}"))) for number in range(40)]
    await asyncio.sleep(0.05)
    stall.clear()
    clients += [asyncio.create_task(service.run(item(f"late{number}"))) for number in range(40)]
    await asyncio.sleep(1.5)
    stall.set()
    answers = await asyncio.wait_for(asyncio.gather(*clients), 5)
    assert set(answers) <= {"wren", "finch", "lark", "heron"}
    state = await service.idle_state()
    assert state["budget"]["reserved_usd"] == 0
    assert state["budget"]["spent_usd"] == pytest.approx(service.generated_usd)


async def test_a_ledger_that_breaks_keeps_no_slot(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await start(total(1.0))

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a mistake of its own")

    with monkeypatch.context() as patched:
        patched.setattr(BudgetLedger, "reserve", broken)
        assert await service.run(item("r")) == "internal_error"
        requests = (item("dear", ask=RoutingAsk(max_cost_usd=0.0)), item("cheap"))
        verdicts = [*(await service.router.exchange(report("i", items=requests), True)).verdicts]
        while len(verdicts) < 2:
            verdicts += (await service.router.exchange(report("i"), True)).verdicts
        assert [(v.id, v.error.code) for v in verdicts] == [("dear", "budget_exceeded"), ("cheap", "internal_error")]
    assert await service.run(item("s", model="wren")) == "wren"
    state = await service.idle_state()
    assert (state["in_flight"], state["budget"]["reserved_usd"]) == (0, 0)
    assert all(model["free_slots"] == model["slots"] for model in state["models"].values())
