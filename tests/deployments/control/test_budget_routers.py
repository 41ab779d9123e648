"""Money that one Router had set aside and another one finds, with the real planner and ledger."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from apportion.deployments.control import router as router_module
from apportion.deployments.ingress import link as link_module
from apportion.router.batch.messages import Done, RoutingAsk
from apportion.router.budget import to_nano
from apportion.router.errors import BudgetExceededError, UnavailableError
from tests.deployments.control.money import Start, item, total
from tests.deployments.local_router import Line, configuration, make_router, report, worst_usd
from tests.deployments.router_process import RouterProcess


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
        await second.router.exchange(report("i", items=(replace(again, ask=RoutingAsk(max_cost_usd=0.0)),)), True)
    elif end == "shed":
        await second.router.exchange(report("i", items=(item("other", ask=RoutingAsk(max_cost_usd=0.0)), again)), True)
    elif end == "cancelled":
        await second.router.exchange(report("i", items=(again,)), False)
        await second.router.exchange(report("i", cancelled=("r",)), False)
    else:
        await second.router.exchange(report("i", cancelled=("r",)), False)
    state = await second.idle_state()
    assert (state["budget"]["reserved_usd"], state["budget"]["spent_usd"], state["in_flight"]) == (0, 0, 0)


@pytest.mark.slow
async def test_a_router_that_is_killed_again_and_again_forgets_nothing(tmp_path: Path) -> None:
    """600 requests against money for 200, and `kill -9` of the router's process in the middle, twice."""
    budget_usd = 200 * worst_usd("heron", 10)
    database = tmp_path / "budget.db"
    process = RouterProcess(
        configuration(database, budget={"limits": [total(budget_usd)]}, router={"host": "127.0.0.1"})
    )
    await asyncio.to_thread(process.start)
    link = Line(process.channel.call)
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
    process.channel.close()
    process.kill()


def read(database: Path) -> tuple[int, int]:
    """Spent and reserved in nano-USD, past everything but the file."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT spent_nano, reserved_nano FROM apportion_counters WHERE scope = 'service' AND span = 'total'"
        )
        spent, reserved = rows.fetchone()
    return spent, reserved


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
