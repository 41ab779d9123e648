"""What the batch room tells of batches and of requests."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from apportion.router.batch.events import (
    AttemptEnded,
    BatchPlanned,
    EndedUnserved,
    Event,
    Events,
    RequestEnded,
    RequestRefused,
)
from apportion.router.batch.messages import Course, Decision, Done, Ending, Held, RoutingAsk
from apportion.router.budget import Account
from apportion.router.errors import UnavailableError
from tests.router.batch.plain_room import PlainRoom, guessed, items

ANSWERED = Course(earlier=0, link_s=0.001, first_byte_s=0.1, total_s=0.2, status=200)


async def decided(room: PlainRoom, n: int = 1, **fields: Any) -> list[Decision]:
    room.join(small=n, large=n)
    verdicts = await room.verdicts(*items(n, **fields))
    assert all(isinstance(verdict, Decision) for verdict in verdicts)
    return [verdict for verdict in verdicts if isinstance(verdict, Decision)]


async def test_a_batch_is_told_once_with_its_numbers() -> None:
    room = PlainRoom()

    decisions = await decided(room, 3)

    (event,) = room.published
    assert isinstance(event, BatchPlanned)
    assert event.info is decisions[0].batch
    assert (event.strategy, event.rung, event.static, event.gap) == ("mip", "mip", 0, 0.0)
    assert (event.placed.tolist(), event.candidates.tolist()) == ([0, 3], [3, 3])
    assert (event.models, event.waiting, event.refused) == (("small", "large"), 0, {})
    assert event.at_s == room.clock()


async def test_a_batch_without_predictions_says_so() -> None:
    room = PlainRoom(guessed)

    await decided(room, 2)

    assert [event.static for event in room.published if isinstance(event, BatchPlanned)] == [2]


async def test_each_strategy_is_a_batch_and_refusals_are_told_with_it() -> None:
    room = PlainRoom()
    room.join(small=9, large=9)
    own = [replace(one, id=f"own-{one.id}", ask=RoutingAsk(strategy="greedy")) for one in items(2)]
    dear = [replace(one, id=f"dear-{one.id}", ask=RoutingAsk(max_cost_usd=1e-9)) for one in items(2)]

    await room.verdicts(*items(1), *own, *dear)

    batches = [event for event in room.published if isinstance(event, BatchPlanned)]
    assert [(batch.strategy, batch.info.size) for batch in batches] == [("mip", 1), ("greedy", 2)]
    refusals = [event for event in room.published if isinstance(event, RequestRefused)]
    assert sum(batches[0].refused.values()) == len(refusals) == 2
    assert set(batches[0].refused) == {refusals[0].code}
    assert {event.id for event in refusals} == {"dear-r0", "dear-r1"}


async def test_an_end_carries_what_was_known_when_the_request_was_decided() -> None:
    room = PlainRoom()
    (decision,) = await decided(room, account=Account(key="k"), model="small")

    room.end(Done("r0", 3e-6, Ending.answered, ANSWERED))

    event = room.published[-1]
    assert isinstance(event, RequestEnded)
    assert (event.id, event.request_id, event.account.key, event.named, event.model) == (
        "r0",
        "r0",
        "k",
        "small",
        "small",
    )
    assert event.decision is not None
    assert event.decision.batch is decision.batch
    assert (event.ending, event.cost_nano, event.cost_told, event.course) == (Ending.answered, 3000, True, ANSWERED)
    assert event.forecast is not None
    assert event.forecast.success.tolist() == [0.4, 0.9]
    assert event.forecast.cost_usd.tolist() == pytest.approx([15e-6, 15e-5])
    assert event.forecast.allowed.tolist() == [True, False]
    assert not event.forecast.guessed


async def test_an_end_is_told_once_however_often_it_comes() -> None:
    room = PlainRoom()
    await decided(room)

    for _ in range(3):
        room.end(Done("r0", 3e-6, Ending.answered, ANSWERED))

    assert len(room.published) == 2


async def test_an_end_whose_cost_only_the_engine_knows_is_told_when_that_has_said_so() -> None:
    room = PlainRoom()
    (decision,) = await decided(room)
    assert decision.replica is not None
    gone = replace(ANSWERED, status=499)

    room.end(Done("r0", None, Ending.given_up, gone))
    assert not [event for event in room.published if isinstance(event, AttemptEnded)]
    room.reservations.told(decision.replica, {"r0": 7e-6})

    event = room.published[-1]
    assert isinstance(event, RequestEnded)
    assert (event.cost_nano, event.cost_told, event.course) == (7000, True, gone)


async def test_what_no_engine_tells_costs_what_was_planned_and_says_that_nobody_told() -> None:
    room = PlainRoom()
    await decided(room)

    room.end(Done("r0", None, Ending.given_up))
    room.clock.now_s += 60
    room.reservations.charge_overdue()

    event = room.published[-1]
    assert isinstance(event, RequestEnded)
    assert (event.cost_nano, event.cost_told) == (150_000, False)


@pytest.mark.parametrize(
    "done",
    [
        Done("r0", None, Ending.unreachable, replace(ANSWERED, status=None)),
        Done("r0", None, Ending.unsent),  # its ingress counts it with those that it never sent
    ],
)
async def test_an_attempt_that_is_not_the_last_ends_no_request(done: Done) -> None:
    room = PlainRoom()
    await decided(room)

    room.end(done)

    event = room.published[-1]
    assert isinstance(event, AttemptEnded)
    assert not isinstance(event, RequestEnded)
    assert event.cost_nano == 0


async def test_a_further_attempt_names_the_request() -> None:
    room = PlainRoom()
    room.join(small=1, large=1)
    await room.verdicts(replace(items(1)[0], id="r0-2"))

    room.end(Done("r0-2", 1e-6, Ending.answered, replace(ANSWERED, earlier=2)))

    event = room.published[-1]
    assert isinstance(event, RequestEnded)
    assert (event.id, event.request_id) == ("r0-2", "r0")


async def test_what_is_cancelled_before_any_engine_had_it_has_no_end() -> None:
    room = PlainRoom()
    await decided(room)

    room.reservations.release("r0")
    room.end(Done("r0", 1e-6))

    assert [type(event) for event in room.published] == [BatchPlanned]


async def test_a_request_that_another_router_decided_ends_without_its_reasons() -> None:
    room = PlainRoom()
    held = Held("old", "small", "small-0", 1, 2e-6, Account(key="k"))
    room.chronicle.adopted(held)
    room.reservations.adopt(held)

    room.end(Done("old", 2e-6, Ending.answered, ANSWERED))

    (event,) = room.published
    assert isinstance(event, RequestEnded)
    assert (event.model, event.account.key, event.decision, event.cost_nano) == ("small", "k", None, 2000)


async def test_a_refusal_is_told_without_what_the_request_says() -> None:
    room = PlainRoom()
    (entry,) = room.submit(*items(1))
    room.published.clear()
    room.clock.now_s += 2

    room.chronicle.refused(entry, UnavailableError("no model for hello"))

    (event,) = room.published
    assert isinstance(event, RequestRefused)
    assert (event.code, event.status, event.waited_s) == ("unavailable", 503, 2.0)
    assert "hello" not in repr(event)


def test_a_subscriber_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    events, heard = Events(), list[Event]()

    def fail(event: Event) -> None:
        raise ValueError("a secret")

    events.subscribe(fail)
    events.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        events.publish(EndedUnserved({"overloaded": 1}))

    assert len(heard) == 1
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text
