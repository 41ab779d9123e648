"""Requests and sleeping models: who wakes one, who waits for it and for how long, and who is not held up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from apportion.router.batch.events import BatchPlanned
from apportion.router.batch.messages import Decision, Refusal, RouteItem, RoutingAsk, Verdict
from apportion.router.batch.money.spending import Spending
from apportion.router.budget import Limit, Scope, Window, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.errors import AsleepError, BudgetExceededError
from tests.router.batch.plain_room import POLICY, Clock, PlainRoom, forecasts, items, until

BOTH = ("small", "large")


def item(name: str, **fields: object) -> RouteItem:
    return replace(items(1)[0], id=name, **fields)


def model(verdict: Verdict) -> str:
    assert isinstance(verdict, Decision), verdict
    return verdict.model


async def asleep(room: PlainRoom, *asked: RouteItem) -> None:
    """Submits requests, and returns when all of them wait for a model."""
    before = room.scheduler.waiting_for_model
    room.submit(*asked)
    await until(lambda: room.scheduler.waiting_for_model == before + len(asked))


async def test_who_names_a_sleeping_model_waits_for_it_and_holds_up_nobody() -> None:
    room = PlainRoom(sleepers=("large",))
    room.join(small=1)
    await asleep(room, item("named", model="large"))
    assert room.scheduler.wanted == {"large"}
    assert room.scheduler.waiting == 0
    assert model((await room.verdicts(item("other")))[0]) == "small"
    assert "named" not in room.told
    room.join(large=1)
    room.scheduler.wake()
    assert model(await room.verdict("named")) == "large"
    assert room.scheduler.wanted == set()
    assert all(not event.refused for event in room.published if isinstance(event, BatchPlanned))


async def test_a_model_that_is_awake_is_enough() -> None:
    room = PlainRoom(sleepers=("large",))
    room.join(small=2)
    assert [model(one) for one in await room.verdicts(*items(2))] == ["small", "small"]
    assert room.scheduler.wanted == set()


async def test_where_all_sleep_the_best_that_can_be_paid_is_woken_and_others_join() -> None:
    room = PlainRoom(sleepers=BOTH)
    await asleep(room, item("any"))
    assert room.scheduler.wanted == {"large"}
    dear = PlainRoom(sleepers=BOTH, policy=replace(POLICY, budget_usd_per_request=2e-5))
    await asleep(dear, item("cheap"))
    assert dear.scheduler.wanted == {"small"}
    await asleep(dear, item("named", model="large"), item("joins"))
    assert dear.scheduler.wanted == {"small", "large"}
    dear.join(small=4)
    dear.scheduler.wake()
    assert model(await dear.verdict("cheap")) == model(await dear.verdict("joins")) == "small"
    assert dear.scheduler.wanted == {"large"}


async def test_what_is_awake_and_too_dear_is_no_reason_to_refuse() -> None:
    room = PlainRoom(sleepers=("small",), policy=replace(POLICY, budget_usd_per_request=2e-5))
    room.join(large=4)
    await asleep(room, item("poor"))
    assert room.scheduler.wanted == {"small"}
    room.join(small=1)
    room.scheduler.wake()
    assert model(await room.verdict("poor")) == "small"


async def test_a_model_that_does_not_wake_costs_no_more_than_the_policy_or_the_request_allows() -> None:
    room = PlainRoom(sleepers=BOTH, policy=replace(POLICY, wake_timeout_s=0.05))
    room.submit(item("patient"))
    verdict = await room.verdict("patient")
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, AsleepError)
    assert (verdict.error.status, verdict.error.retry_after_s) == (503, 30.0)
    room.scheduler.policy = replace(POLICY, wake_timeout_s=300.0)
    room.submit(item("hasty", timeout_s=0.05))
    assert isinstance(await room.verdict("hasty"), Refusal)
    assert room.scheduler.wanted == set()


async def test_who_leaves_is_waited_for_no_more() -> None:
    room = PlainRoom(sleepers=BOTH)
    (entry,) = room.submit(item("leaves"))
    await until(lambda: room.scheduler.waiting_for_model == 1)
    room.scheduler.withdraw(entry)
    assert (room.scheduler.waiting_for_model, room.scheduler.wanted) == (0, set())
    room.join(large=1)
    room.scheduler.wake()
    await asyncio.sleep(0.02)
    assert room.told == {}
    assert room.fleet.in_flight == 0


async def test_a_model_that_falls_asleep_again_is_waited_for_as_long_as_was_left() -> None:
    room = PlainRoom(sleepers=("large",), policy=replace(POLICY, wake_timeout_s=60.0))
    (entry,) = room.submit(item("named", model="large"))
    await until(lambda: room.scheduler.waiting_for_model == 1)
    by_s = entry.wake_by_s
    room.clock.now_s += 20.0
    room.scheduler._sleeping.awake(0b11)
    await until(lambda: room.scheduler.waiting_for_model == 1)
    assert entry.wake_by_s == by_s == 1_060.0


async def test_places_are_bounded() -> None:
    room = PlainRoom(sleepers=BOTH, limits=replace(PlainRoom().limits, max_queue=2))
    await asleep(room, *items(2))
    room.submit(item("third"))
    assert isinstance(await room.verdict("third"), Refusal)


async def test_money_is_asked_for_before_anybody_is_woken(tmp_path: Path) -> None:
    limit, clock = Limit(Scope.service, Window.total, to_nano(1e-9)), Clock()
    spending = Spending(BudgetLedger(f"sqlite:///{tmp_path / 'ledger.sqlite'}"), 300.0, limits=[limit], clock=clock)
    room = PlainRoom(sleepers=BOTH, spending=spending, clock=clock)
    verdict = (await room.verdicts(item("poor")))[0]
    assert isinstance(verdict, Refusal)
    assert isinstance(verdict.error, BudgetExceededError)
    assert room.scheduler.wanted == set()


async def test_a_plan_that_is_not_run_says_so_and_wakes_nobody() -> None:
    room = PlainRoom(sleepers=("large",))
    room.join(small=1)
    first, second = await room.previewed(item("named", model="large"), item("any"))
    assert isinstance(first, Refusal)
    assert first.error.code == "model_asleep"
    assert model(second) == "small"
    assert second.candidates[1].reason == "it is asleep, and is woken only where no other may answer"
    assert room.scheduler.wanted == set()


async def test_limits_of_the_request_hold_for_sleepers_too() -> None:
    room = PlainRoom(sleepers=("large",))
    room.join(small=1)
    verdict = (await room.verdicts(item("capped", model="large", ask=RoutingAsk(max_cost_usd=1e-9))))[0]
    assert isinstance(verdict, Refusal)
    assert not isinstance(verdict.error, AsleepError)


async def test_after_the_loss_of_its_replica_a_request_may_wake_the_model() -> None:
    room = PlainRoom(sleepers=("large",), forecast=lambda asked: forecasts(len(asked)))
    room.join(small=1)
    await asleep(room, item("again", model="large", avoid_replicas=("large-0",)))
    gone = (await room.verdicts(item("no", model="large", avoid_models=("large",))))[0]
    assert isinstance(gone, Refusal)
    assert gone.error.code == "unavailable"


@pytest.mark.parametrize("sleepers", [(), ("small",)])
async def test_what_does_not_sleep_is_refused_at_once(sleepers: tuple[str, ...]) -> None:
    room = PlainRoom(sleepers=sleepers)
    room.join(small=1)
    verdict = (await room.verdicts(item("named", model="large")))[0]
    assert isinstance(verdict, Refusal)
    assert verdict.error.code == "unavailable"
