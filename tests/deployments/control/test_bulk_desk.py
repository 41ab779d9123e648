"""What the Router tells runners of jobs, and what it makes of what they tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.control.exchanges import SILENT_RUNNER_S
from apportion.deployments.wire.bulk import JobTold, RunnerReport
from apportion.router.batch.messages import Course, Done, Ending, RouteItem
from apportion.router.budget import Account, Job
from tests.deployments.local_router import NAMES, PRICES, LocalService, configuration

COURSE = Course(0, 0.0, 0.1, 1.0, 200, 10, 50)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LocalService]:
    bulk: dict[str, Any] = {"storage": str(tmp_path), "price_factor": 0.5, "reserve": {"wren": 20}, "least_reserve": 2}
    made = LocalService(configuration(None, bulk=bulk))
    await made.announce()
    yield made
    await made.close()


async def test_a_runner_hears_of_slots_and_prices(service: LocalService) -> None:
    state = await service.router.bulk(RunnerReport("runner"))
    assert state.slots == {"wren": 44} | dict.fromkeys(NAMES[1:], 52)
    assert [price.output_usd_per_million for price in state.prices] == [price / 2 for price in PRICES]
    assert state.tokens_per_s == {}


async def test_haste_takes_of_the_reserve_until_its_runner_is_gone(
    service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await service.router.bulk(RunnerReport("late", haste=1.0))
    assert set(state.slots.values()) == {62}
    state = await service.router.bulk(RunnerReport("calm"))
    assert set(state.slots.values()) == {62}
    monkeypatch.setattr(service.router._bulk, "_clock", lambda: 1e9)
    state = await service.router.bulk(RunnerReport("calm"))
    assert state.slots["wren"] == 44


async def test_what_a_dead_runner_had_in_flight_is_free_before_other_ingresses_would_be_given_up(
    service: LocalService,
) -> None:
    row = RouteItem("row", "wren", max_tokens=20, account=Account("key", None, Job("job", 100_000)))
    await service.plan(row)
    ((name, session),) = service.router._exchanges._sessions.items()
    session.seen_s -= SILENT_RUNNER_S + 1
    await service.router._exchanges.forget_silent_ingresses()
    assert session.in_flight, "an ingress of clients has more time"
    await service.router.bulk(RunnerReport(name))
    await service.router._exchanges.forget_silent_ingresses()
    assert not session.in_flight
    assert name not in service.router._exchanges._sessions


async def test_rows_are_paid_by_their_job_although_nothing_else_is_limited(service: LocalService) -> None:
    row = RouteItem("row", "wren", max_tokens=20, account=Account("key", None, Job("job", 100_000)))
    decision = await service.plan(row)
    await service.plan(RouteItem("other", "wren", max_tokens=20))
    state = await service.router.bulk(RunnerReport("runner", (JobTold("job", "in_progress"),)))
    assert state.spent_nano == {"job": (0, 15_000)}  # thirty tokens at half a price
    service.link.finish(Done(decision.id, 7e-6, Ending.answered, COURSE))
    service.link.finish(Done("other", 30e-6, Ending.answered, COURSE))
    await service.idle_state()
    state = await service.router.bulk(RunnerReport("runner", (JobTold("job", "in_progress"),)))
    assert state.spent_nano == {"job": (7_000, 0)}
    assert "budget" not in await service.router.state()


async def test_speeds_are_those_of_the_last_answers(service: LocalService) -> None:
    for number in range(3):
        decision = await service.plan(RouteItem(f"r{number}", "lark", max_tokens=20))
        service.link.finish(Done(decision.id, 1e-6, Ending.answered, replace(COURSE, total_s=2.0)))
    await service.idle_state()
    state = await service.router.bulk(RunnerReport("runner"))
    assert state.tokens_per_s == {"lark": pytest.approx(25.0, rel=0.05)}


async def test_rows_count_for_no_rate_of_their_key(tmp_path: Path) -> None:
    anonymous = {"requests_per_minute": 1, "max_in_flight": 1}
    service = LocalService(configuration(None, anonymous=anonymous, bulk={"storage": str(tmp_path)}))
    await service.announce()
    account = Account(None, None, Job("job"))
    for number in range(5):
        await service.plan(RouteItem(f"r{number}", "wren", max_tokens=20, account=account))
    assert await service.run(RouteItem("own", max_tokens=20)) in NAMES
    assert await service.run(RouteItem("more", max_tokens=20)) == "rate_limit_exceeded"
    await service.close()
