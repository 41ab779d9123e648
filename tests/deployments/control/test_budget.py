"""Money through the real Router, planner and ledger, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.control import router as router_module
from apportion.deployments.ingress import link as link_module
from apportion.deployments.ingress.link import RouterLink
from apportion.router.batch.messages import Done, Reply, Report, RouteItem, RoutingAsk
from apportion.router.budget import Account, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.errors import BudgetExceededError, BudgetExhaustedError, LedgerError, UnavailableError
from tests.deployments.local_router import LocalService, configuration, make_router, worst_usd
from tests.deployments.router_process import RouterProcess

Start = Callable[..., Awaitable[LocalService]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[LocalService] = []

    async def start_one(*limits: dict[str, Any], **sections: Any) -> LocalService:
        budget = {"limits": list(limits), **sections.pop("budget", {})}
        service = LocalService(configuration(tmp_path / "budget.db", budget=budget, **sections))
        await service.announce()
        running.append(service)
        return service

    yield start_one
    for service in running:
        await service.close()


def total(usd: float, **fields: Any) -> dict[str, Any]:
    return {"scope": "service", "window": "total", "usd": usd, **fields}


def item(name: str, **fields: Any) -> RouteItem:
    return RouteItem(id=name, content="x", **{"max_tokens": 10, **fields})


async def test_a_thousand_at_once_spend_what_there_is_for_three_hundred_and_no_more(start: Start) -> None:
    each_usd = worst_usd("heron", 10)
    service = await start(total(300 * each_usd))
    requests = [item(f"r{i}", model="heron") for i in range(1000)]
    answers = Counter(await asyncio.gather(*(service.run(one, engine_s=0.2) for one in requests)))
    state = await service.idle_state()
    assert answers["heron"] == 300
    assert answers["budget_exhausted"] + answers["budget_exceeded"] == 700
    assert state["budget"]["spent_usd"] == pytest.approx(300 * each_usd, abs=1e-9)
    assert state["budget"]["spent_usd"] <= 300 * each_usd
    assert state["budget"]["reserved_usd"] == state["reserved_usd"] == 0


async def test_what_answers_leave_of_their_worst_case_pays_for_others(start: Start) -> None:
    service = await start(total(30 * worst_usd("heron", 10)))
    ask = RoutingAsk(wait_for_budget=True)
    requests = [item(f"r{i}", model="heron", ask=ask) for i in range(50)]
    answers = Counter(await asyncio.gather(*(service.run(one, share=0.0) for one in requests)))
    state = await service.idle_state()
    assert answers == {"heron": 50}
    assert state["budget"]["spent_usd"] == pytest.approx(50 * worst_usd("heron", 0))


async def test_cheaper_models_answer_when_the_dear_ones_cannot_be_paid(start: Start) -> None:
    service = await start(total(worst_usd("heron", 10) + 3 * worst_usd("wren", 10)))
    answers = Counter(await asyncio.gather(*(service.run(item(f"r{i}")) for i in range(4))))
    state = await service.idle_state()
    assert sum(answers[name] for name in ("wren", "finch", "lark", "heron")) >= 3
    assert state["budget"]["spent_usd"] <= worst_usd("heron", 10) + 3 * worst_usd("wren", 10)


async def test_an_unknown_length_is_bounded_by_the_context(start: Start) -> None:
    service = await start(total(worst_usd("heron", 89)))
    with pytest.raises(BudgetExceededError, match=r"0\.0008 USD"):
        await service.plan(item("long", model="heron", max_tokens=None))
    assert (await service.plan(item("short", model="heron", max_tokens=89))).model == "heron"


async def test_a_prompt_that_was_not_read_in_full_may_fill_the_context(start: Start) -> None:
    service = await start(total(worst_usd("heron", 50)))
    with pytest.raises(BudgetExceededError):
        await service.plan(item("r", model="heron", unread_prompt=True))
    assert (await service.plan(item("s", model="heron"))).model == "heron"


async def test_a_cost_that_nobody_tells_is_charged_at_its_worst(start: Start) -> None:
    service = await start(total(1.0))
    assert await service.run(item("r", model="heron"), share=0.1, told=False) == "heron"
    state = await service.idle_state()
    assert state["budget"]["spent_usd"] == pytest.approx(worst_usd("heron", 10), abs=1e-9)
    assert state["spent_usd"] == pytest.approx(worst_usd("heron", 10), abs=1e-9)


async def test_a_refusal_says_when_there_is_money_again(start: Start) -> None:
    service = await start({"scope": "service", "window": "day", "usd": worst_usd("wren", 10)})
    assert await service.run(item("a", model="wren")) == "wren"
    await service.idle_state()
    with pytest.raises(BudgetExhaustedError, match="there is money again at") as caught:
        await service.plan(item("b"))
    midnight_s = (time.time() // 86400 + 1) * 86400
    assert caught.value.retry_after_s == pytest.approx(midnight_s - time.time(), abs=5)
    with pytest.raises(BudgetExceededError) as never:
        await service.plan(item("c", max_tokens=50))
    assert never.value.status == 402


async def test_who_asked_so_waits_for_the_next_window(start: Start) -> None:
    service = await start({"scope": "service", "window": "minute", "usd": worst_usd("wren", 10)})
    clock = [1_800_000_058.0]
    service.router._reservations.spending._clock = lambda: clock[0]
    ask = RoutingAsk(wait_for_budget=True)
    assert await service.run(item("a", model="wren")) == "wren"
    await asyncio.sleep(0.05)
    waits = asyncio.create_task(service.run(item("b", model="wren", ask=ask)))
    leaves = asyncio.create_task(service.run(item("c", model="wren", ask=ask)))
    assert await service.run(item("d", model="wren")) == "budget_exhausted"
    leaves.cancel()
    await asyncio.sleep(0.1)
    assert (await service.router.state())["waiting_for_budget"] == 1
    clock[0] += 2
    assert await waits == "wren"
    state = await service.idle_state()
    assert (state["in_flight"], state["waiting_for_budget"], state["budget"]["reserved_usd"]) == (0, 0, 0)


async def test_who_waits_for_money_is_not_planned_again_where_the_rest_of_his_batch_fails(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start({"scope": "model", "name": "heron", "window": "minute", "usd": worst_usd("heron", 10)})
    service.router._reservations.spending._clock = lambda: 1_800_000_031.0
    assert await service.run(item("a", model="heron")) == "heron"
    await asyncio.sleep(0.05)
    reservations, scheduler = service.router._reservations, service.router._scheduler
    free_bytes, take = scheduler._unfunded._bytes_left, reservations.take

    async def fail_once(_: object) -> Any:
        monkeypatch.setattr(reservations, "take", take)
        raise ValueError("broken")

    monkeypatch.setattr(reservations, "take", fail_once)
    patient = item("b", model="heron", ask=RoutingAsk(wait_for_budget=True))
    waits, other = asyncio.create_task(service.run(patient)), asyncio.create_task(service.run(item("c", model="wren")))
    assert await other == "wren"
    assert (scheduler.waiting_for_budget, scheduler.waiting) == (1, 0)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert (await service.idle_state())["waiting_for_budget"] == 0
    assert scheduler._unfunded._bytes_left == free_bytes


async def test_a_wait_that_is_longer_than_the_requests_time_is_refused_at_once(start: Start) -> None:
    service = await start(
        {"scope": "service", "window": "month", "usd": worst_usd("wren", 10)}, dispatch={"request_timeout_s": 30}
    )
    ask = RoutingAsk(wait_for_budget=True)
    answers = [await service.run(item(name, model="wren", ask=ask, timeout_s=30)) for name in ("a", "b")]
    assert answers == ["wren", "budget_exhausted"]


async def test_tenants_and_keys_do_not_pay_for_each_other(start: Start) -> None:
    one = worst_usd("wren", 10)
    service = await start(
        {"scope": "tenant", "window": "day", "usd": 2 * one},
        {"scope": "key", "name": "k", "window": "total", "usd": one},
    )
    accounts = [Account(tenant="a")] * 4 + [Account(tenant="b")] * 2 + [Account("k", "c")] * 3 + [Account()] * 3
    requests = [item(f"r{i}", model="wren", account=account) for i, account in enumerate(accounts)]
    answers = await asyncio.gather(*(service.run(one, engine_s=0.1) for one in requests))
    granted = Counter(account for account, answer in zip(accounts, answers, strict=True) if answer == "wren")
    # Those without a name share one.
    assert granted == {Account(tenant="a"): 2, Account(tenant="b"): 2, Account("k", "c"): 1, Account(): 2}
    assert "'a'" not in str(await service.router.state()), "names of tenants are nobody else's business"


async def test_cancels_at_any_moment_leave_nothing_behind(start: Start) -> None:
    service = await start(total(100 * worst_usd("heron", 10)))

    async def impatient(i: int) -> None:
        work = asyncio.create_task(service.run(item(f"r{i}"), engine_s=0.05, told=i % 3 > 0))
        await asyncio.sleep(0.0007 * (i % 60))
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    await asyncio.gather(*(impatient(i) for i in range(400)))
    state = await service.idle_state()
    assert (state["in_flight"], state["budget"]["reserved_usd"], state["reserved_usd"]) == (0, 0, 0)
    assert all(model["free_slots"] == model["slots"] for model in state["models"].values())
    assert state["budget"]["spent_usd"] >= service.generated_usd * (1 - 1e-9)
    assert state["budget"]["overruns"] == 0


async def test_a_new_router_settles_what_the_lost_one_had_reserved(start: Start, tmp_path: Path) -> None:
    service = await start(total(1.0))
    decision = await service.plan(item("r", model="heron"))
    second = await start(total(1.0))
    state = await second.router.state()
    assert state["budget"]["reserved_usd"] == pytest.approx(worst_usd("heron", 10), abs=1e-9)
    second.link.finish(Done(decision.id, 1e-5))
    await asyncio.sleep(0.05)
    state = await second.router.state()
    assert (state["budget"]["reserved_usd"], state["budget"]["spent_usd"]) == (0, 1e-5)


@pytest.mark.parametrize("end", ["refused", "shed", "cancelled", "cancelled before it is sent again"])
async def test_what_a_lost_router_had_reserved_for_nothing_is_released(start: Start, end: str) -> None:
    service = await start(total(1.0))
    await service.plan(item("r", model="heron"))  # its verdict gets lost with the router
    second = await start(total(1.0), batching={"max_queue": 1})
    again = item("r", model="heron", resent=True)
    reserved_usd = (await second.router.state())["budget"]["reserved_usd"]
    assert reserved_usd == pytest.approx(worst_usd("heron", 10), abs=1e-9)
    if end == "refused":
        await second.router.exchange(Report("i", items=(replace(again, ask=RoutingAsk(max_cost_usd=0.0)),)), True)
    elif end == "shed":
        await second.router.exchange(Report("i", items=(item("other", ask=RoutingAsk(max_cost_usd=0.0)), again)), True)
    elif end == "cancelled":
        await second.router.exchange(Report("i", items=(again,)), False)
        await second.router.exchange(Report("i", cancelled=("r",)), False)
    else:
        await second.router.exchange(Report("i", cancelled=("r",)), False)
    state = await second.idle_state()
    assert (state["budget"]["reserved_usd"], state["budget"]["spent_usd"], state["in_flight"]) == (0, 0, 0)


@pytest.mark.slow
async def test_a_router_that_is_killed_again_and_again_forgets_nothing(tmp_path: Path) -> None:
    """600 requests against money for 200, and `kill -9` of the router's process in the middle, twice."""
    budget_usd = 200 * worst_usd("heron", 10)
    database = tmp_path / "budget.db"
    process = RouterProcess(configuration(database, budget={"limits": [total(budget_usd)]}), tmp_path)
    await asyncio.to_thread(process.start)
    link = RouterLink(process.exchange)
    generated: list[int] = []

    async def client(i: int) -> str:
        try:
            decision = await link.plan(item(f"r{i}", model="heron", ask=RoutingAsk(wait_for_budget=True)))
        except BudgetExceededError as error:
            return error.code
        generated.append(to_nano(worst_usd("heron", 10)))  # the engine's work; from now on it must be paid
        spent, reserved = read(database)
        assert spent + reserved >= sum(generated)
        await asyncio.sleep(0.05)
        link.finish(Done(decision.id, worst_usd("heron", 10)))
        return "answered"

    work = asyncio.gather(*(client(i) for i in range(600)))
    for killed_at in (40, 120):
        while len(generated) < killed_at and not work.done():
            await asyncio.sleep(0.005)
        process.kill()
        await asyncio.to_thread(process.start)
    answers = Counter(await work)
    assert answers == {"answered": 200, "budget_exceeded": 400}
    for _ in range(100):
        if read(database)[1] == 0:
            break
        await asyncio.sleep(0.05)
    assert read(database) == (sum(generated), 0) == (to_nano(budget_usd), 0)
    await link.close()
    process.kill()


def read(database: Path) -> tuple[int, int]:
    """Spent and reserved in nano-USD, past everything but the file."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT spent_nano, reserved_nano FROM apportion_counters WHERE scope = 'service' AND span = 'total'"
        )
        spent, reserved = rows.fetchone()
    return spent, reserved


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


async def test_a_router_that_is_not_the_newest_decides_nothing_and_loses_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "service_name", lambda: "session/application")
    monkeypatch.setattr(link_module, "RETRY_S", 0.01)
    service = await start(total(1.0), slots=1)
    old = service.router
    held = await service.plan(item("held", model="wren"))
    waiting = asyncio.create_task(service.plan(item("waiting", model="wren")))
    await asyncio.sleep(0.1)
    new = make_router(service.config)
    service.link.finish(Done(held.id, 1e-6))  # the old router would give its slot to the other, but may not pay for it
    async with asyncio.timeout(5):
        while not old._reservations.spending.superseded:
            await asyncio.sleep(0.01)
    with pytest.raises(UnavailableError, match="newer router"):
        old.check_health()
    assert not waiting.done()
    service.router = new
    await service.announce()
    decision = await asyncio.wait_for(waiting, 5)
    service.link.finish(Done(decision.id, 2e-6))
    state = await service.idle_state()
    assert (state["budget"]["spent_usd"], state["budget"]["reserved_usd"]) == (pytest.approx(3e-6), 0)
    new.check_health()
    old._housekeeping.stop()
    old._reservations.spending.close()


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
    service.link = RouterLink(service.router.exchange)
    await service.run(item("first"))
    stall.clear()
    report = Report("other", 1, items=(item("r", ask=RoutingAsk(max_cost_usd=0.0)),), done=(Done("gone", 1e-6),))
    reply = await asyncio.wait_for(service.router.exchange(report, True), 2)
    assert [verdict.id for verdict in reply.verdicts] == ["r"]
    assert reply.settled == ()
    stall.set()
    async with asyncio.timeout(2):
        while (await service.router.exchange(Report("other", 2), False)).settled != (1,):
            await asyncio.sleep(0.01)


async def test_a_ledger_that_fails_confirms_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await start(total(1.0))

    def fail(*_: Any) -> Any:
        raise LedgerError("broken")

    with monkeypatch.context() as broken:
        broken.setattr(BudgetLedger, "_transact", fail)
        await service.router.exchange(Report("other", 1, done=(Done("r", 1e-6),)), False)
        await asyncio.sleep(0.1)
        assert (await service.router.exchange(Report("other", 2), False)).settled == ()


async def test_a_stalled_ledger_leaves_nobody_decided_and_never_told(
    start: Start, stall: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value_s in {"EXCHANGE_TIMEOUT_S": 0.3, "RETRY_S": 0.05, "LATE_S": 0.4, "KEEPALIVE_S": 0.1}.items():
        monkeypatch.setattr(link_module, name, value_s)
    service = await start(total(1.0))

    async def lives_on(report: Report, wait: bool) -> Reply:
        """As a call of Serve's does whose caller has given up."""
        return await asyncio.shield(asyncio.create_task(service.router.exchange(report, wait)))

    service.link = RouterLink(lives_on)
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
        verdicts = [*(await service.router.exchange(Report("i", items=requests), True)).verdicts]
        while len(verdicts) < 2:
            verdicts += (await service.router.exchange(Report("i"), True)).verdicts
        assert [(v.id, v.error.code) for v in verdicts] == [("dear", "budget_exceeded"), ("cheap", "internal_error")]
    assert await service.run(item("s", model="wren")) == "wren"
    state = await service.idle_state()
    assert (state["in_flight"], state["budget"]["reserved_usd"]) == (0, 0)
    assert all(model["free_slots"] == model["slots"] for model in state["models"].values())


async def test_pacing_spreads_the_days_money_over_the_day(start: Start) -> None:
    service = await start(
        {"scope": "service", "window": "day", "usd": 1e-3},
        budget={"pacing": {"mode": "carry_over", "options": {"ahead": 0.01}}},
    )
    service.router._reservations.spending._clock = lambda: 1_800_000_000.0 + 57_600 + 1  # a second after midnight
    answers = Counter(await asyncio.gather(*(service.run(item(f"r{i}"), share=0.5) for i in range(8))))
    assert answers["heron"] < 8
    assert sum(answers[name] for name in ("wren", "finch", "lark", "heron")) == 8
    state = await service.idle_state()
    assert state["budget"]["spent_usd"] < 8 * worst_usd("heron", 5)


async def test_limits_change_while_the_service_runs(start: Start) -> None:
    service = await start(total(worst_usd("wren", 10)))
    assert [await service.run(item(n, model="wren")) for n in "ab"] == ["wren", "budget_exceeded"]
    service.router.reconfigure({"limits": [total(3 * worst_usd("wren", 10))]})
    assert [await service.run(item(n, model="wren")) for n in "cde"] == ["wren", "wren", "budget_exceeded"]


async def test_without_a_budget_section_nothing_is_limited_and_nothing_is_written(tmp_path: Path) -> None:
    service = LocalService(configuration(None))
    await service.announce()
    answers = Counter(await asyncio.gather(*(service.run(item(f"r{i}")) for i in range(50))))
    state = await service.idle_state()
    assert answers.total() == answers["heron"] + answers["lark"] == 50
    assert "budget" not in state
    assert state["spent_usd"] == pytest.approx(service.generated_usd)
    await service.close()
