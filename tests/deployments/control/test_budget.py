"""Money through the real Router, planner and ledger, without Ray."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from apportion.router.batch.messages import RoutingAsk
from apportion.router.budget import Account
from apportion.router.errors import BudgetExceededError
from tests.deployments.control.money import Start, item, total
from tests.deployments.local_router import LocalService, configuration, worst_usd


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
