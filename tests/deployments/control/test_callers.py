"""Callers' rates and their requests in flight, through the real Router."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from apportion.router.batch.messages import Done, Held, RouteItem
from apportion.router.budget import Account
from apportion.router.errors import RateLimitError
from tests.deployments.local_router import NAMES, Line, LocalService, configuration, keys_file, make_router, report

Start = Callable[..., Awaitable[LocalService]]
ALICE, BOB = Account("alice"), Account("bob")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[LocalService] = []

    async def start_one(**sections: Any) -> LocalService:
        service = LocalService(configuration(None, **sections))
        await service.announce()
        running.append(service)
        return service

    yield start_one
    for service in running:
        await service.close()


def item(name: str, account: Account = ALICE, **fields: Any) -> RouteItem:
    return RouteItem(id=name, account=account, **{"max_tokens": 10, **fields})


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return keys_file(tmp_path / "keys.yaml", {"name": "alice", "max_in_flight": 3}, {"name": "bob"})


async def test_a_key_has_no_more_in_flight_than_it_may_and_others_as_many_as_they_like(
    start: Start, keys: dict[str, str]
) -> None:
    service = await start(keys=keys)
    mine = [service.run(item(f"a{i}"), engine_s=0.3) for i in range(10)]
    others = [service.run(item(f"b{i}", BOB), engine_s=0.3) for i in range(10)]
    answers = await asyncio.gather(*mine, *others)
    assert answers[:10].count("rate_limit_exceeded") == 7
    assert "rate_limit_exceeded" not in answers[10:]
    await service.idle_state()
    assert not service.router._callers._in_flight
    again = await asyncio.gather(*(service.run(item(f"c{i}")) for i in range(3)))
    assert "rate_limit_exceeded" not in again


async def test_all_ingresses_together_have_no_more_than_the_key_may(start: Start, keys: dict[str, str]) -> None:
    service = await start(keys=keys)
    other = Line(service.router.exchange)
    for i in range(3):
        await (other if i % 2 else service.link).plan(item(f"a{i}"))
    with pytest.raises(RateLimitError, match="this API key may have 3 requests in flight") as caught:
        await other.plan(item("a3"))
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1.0)
    service.link.finish(Done("a0", 0.0))
    service.link.finish(Done("a0", 0.0))  # told twice, as it may be: one place is free, not two
    await asyncio.sleep(0.2)
    await other.plan(item("a4"))
    with pytest.raises(RateLimitError):
        await service.link.plan(item("a5"))
    await other.close()


async def test_whoever_leaves_at_any_moment_gives_the_place_back(start: Start, keys: dict[str, str]) -> None:
    service = await start(keys=keys)
    for round_ in range(20):
        requests = [asyncio.create_task(service.run(item(f"r{round_}-{i}"), engine_s=0.02)) for i in range(3)]
        await asyncio.sleep(0.001 * round_)
        for request in requests:
            request.cancel()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        assert "rate_limit_exceeded" not in outcomes
        await service.idle_state()
        assert not service.router._callers._in_flight
        assert not service.router._callers._caller_of


async def test_a_new_router_knows_who_has_what_in_flight(start: Start, keys: dict[str, str]) -> None:
    service = await start(keys=keys)
    decisions = [await service.link.plan(item(f"a{i}")) for i in range(3)]
    held = tuple(
        Held(d.id, d.model, d.replica or "", 1, d.cost_usd, ALICE, most_tokens=d.most_tokens) for d in decisions
    )
    assert set(service.link._held.values()) == set(held)
    router = make_router(service.config)
    reply = await router.exchange(report("i", items=(item("a3"), item("b", BOB)), held=held), True)
    assert [verdict.error.code for verdict in reply.verdicts if verdict.id == "a3"] == ["rate_limit_exceeded"]
    again = item("a4", resent=True)  # admitted by the router before
    await router.exchange(report("i", items=(again,)), False)
    assert router._callers._in_flight == Counter(alice=4, bob=1)
    await router.exchange(report("i", cancelled=("a4", "b"), done=tuple(Done(one.id, 0.0) for one in held)), False)
    assert not router._callers._in_flight
    router._housekeeping.stop()
    await router._scheduler.drain()


async def test_an_ingress_that_is_gone_has_nothing_in_flight(
    start: Start, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start(keys=keys)
    lost = Line(service.router.exchange)
    for i in range(3):
        await lost.plan(item(f"a{i}"))
    monkeypatch.setattr("apportion.deployments.control.exchanges.INGRESS_TTL_S", -1.0)
    await service.router._exchanges.forget_silent_ingresses()
    assert not service.router._callers._in_flight
    await lost.close()


async def test_a_further_attempt_is_the_same_request(start: Start, keys: dict[str, str]) -> None:
    service = await start(keys=keys)
    decisions = [await service.link.plan(item(f"a{i}")) for i in range(3)]
    await service.link.plan(item("a0").again(decisions[:1], 10.0))
    await service.link.plan(item("a1").again((), 10.0, others=1))


async def test_callers_without_keys_share_a_rate_and_a_number_in_flight(start: Start) -> None:
    service = await start(anonymous={"max_in_flight": 2, "requests_per_minute": 60})
    plans = await asyncio.gather(*(service.run(item(f"a{i}", Account()), engine_s=0.2) for i in range(4)))
    assert plans.count("rate_limit_exceeded") == 2
    accounts = [Account(), Account(tenant="t")]
    answers = [await service.run(item(f"b{i}", accounts[i % 2])) for i in range(8)]
    assert answers.count("rate_limit_exceeded") >= 4, "bursts of five seconds' worth pass"
    with pytest.raises(RateLimitError, match="callers without a key may send 60 requests a minute"):
        await service.route([item("c", Account())])


async def test_a_plan_without_run_is_in_flight_until_it_is_made(start: Start, keys: dict[str, str]) -> None:
    service = await start(keys=keys)
    preview = service.router._room.preview
    plan = preview.plan

    async def slowly(*batch: Any) -> Any:
        await asyncio.sleep(0.05)
        return await plan(*batch)

    preview.plan = slowly
    calls = await asyncio.gather(
        *(service.route([item(f"a{i}-{j}") for j in range(4)]) for i in range(5)), return_exceptions=True
    )
    assert sum(isinstance(call, RateLimitError) for call in calls) == 2
    assert not service.router._callers._in_flight


async def test_requests_that_are_only_planned_are_counted_one_by_one_and_apart(
    start: Start, keys: dict[str, str]
) -> None:
    service = await start(keys=keys, ingress={"route": {"requests_per_minute": 60}})
    planned = [item(f"p{i}") for i in range(20)]
    assert len(await service.route(planned)) == 20
    with pytest.raises(RateLimitError, match="this API key may plan 60 requests a minute"):
        await service.route(planned[:1])
    assert len(await service.route([item("b", BOB)])) == 1
    assert await service.run(item("real")) in NAMES
