"""Who waits until there is money again, through the real Router, planner and ledger."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from apportion.router.batch.messages import RoutingAsk
from apportion.router.errors import BudgetExceededError, BudgetExhaustedError
from tests.deployments.control.money import Start, item
from tests.deployments.local_router import worst_usd


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
    take = reservations.take

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
    assert not scheduler._unfunded._held


async def test_a_wait_that_is_longer_than_the_requests_time_is_refused_at_once(start: Start) -> None:
    service = await start(
        {"scope": "service", "window": "month", "usd": worst_usd("wren", 10)}, dispatch={"request_timeout_s": 30}
    )
    ask = RoutingAsk(wait_for_budget=True)
    answers = [await service.run(item(name, model="wren", ask=ask, timeout_s=30)) for name in ("a", "b")]
    assert answers == ["wren", "budget_exhausted"]
