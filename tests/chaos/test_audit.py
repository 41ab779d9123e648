"""The storm's checks find what they look for: each is given an outcome that breaks a promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apportion.router.prices import ModelPrice
from tests.chaos import audit
from tests.chaos.client import Outcome
from tests.chaos.kills import Outage
from tests.chaos.ledger import DEAREST_NANO, UNTOLD_S, LedgerState, paid
from tests.chaos.plan import MIX, Kind, Shot, make_plan
from tests.chaos.storm import is_calm
from tests.chaos.summary import Summary, count_ends, end_of, outage_seconds

PRICE = {"wren": ModelPrice(1.0, 2.0)}
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}


def whole(index: int = 0, *, text: str = "9", name: str | None = None, **fields: Any) -> Outcome:
    """A good answer of 10 + 5 tokens."""
    body = {
        "id": name or f"chat-{index}",
        "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    headers = {"x-router-model": "wren", "x-router-settled-cost-usd": "2e-05"}
    values = {"status": 200, "headers": headers, "body": json.dumps(body).encode(), "started_s": 1.0, "ended_s": 2.0}
    return Outcome(Shot(index, Kind.plain, body=CHAT), **(values | fields))


def error(status: int, code: str, shot: Shot | None = None, message: str = "m", **fields: Any) -> Outcome:
    body = {"error": {"message": message, "type": "t", "param": None, "code": code}}
    shot = shot or Shot(0, Kind.plain, body=CHAT, statuses=frozenset({200, 429}))
    values = {"status": status, "headers": {"retry-after": "1"}, "body": json.dumps(body).encode()}
    return Outcome(shot, **(values | {"started_s": 1.0, "ended_s": 2.0} | fields))


def stream(*lines: str) -> Outcome:
    headers = {"content-type": "text/event-stream; charset=utf-8", "x-router-model": "wren"}
    return whole(headers=headers, body="\n\n".join([*lines, ""]).encode())


COST = ": x-router-settled-cost-usd 2e-05"
EVENT = 'data: {"id": "chat-0", "choices": [{"index": 0, "delta": {"content": "9"}, "finish_reason": "stop"}]}'
BROKE = 'data: {"error": {"message": "m", "type": "t", "param": null, "code": "unavailable"}}'


def test_good_outcomes_pass() -> None:
    outcomes = [
        whole(),
        whole(1),
        error(429, "overloaded"),
        stream(EVENT.replace("chat-0", "chat-9"), COST, "data: [DONE]"),
    ]
    assert audit.accounted(4, outcomes) == []
    assert audit.statuses(outcomes, []) == audit.streams(outcomes, []) == audit.answered_once(outcomes) == []
    assert audit.deadlines(outcomes, 30.0) == audit.settled(outcomes, PRICE) == []
    assert audit.same_answers(outcomes) == (3, [])


def test_hung_and_missing_requests_are_found() -> None:
    assert len(audit.accounted(2, [whole()])) == 1
    assert len(audit.accounted(1, [whole(hung=True)])) == 1
    assert len(audit.accounted(1, [whole(status=None)])) == 1
    assert audit.accounted(1, [whole(status=None, left=True)]) == []


@pytest.mark.parametrize(
    "bad",
    [
        error(500, "internal_error"),
        error(503, "unavailable"),
        error(404, "model_not_found"),
        error(429, "budget_exhausted"),
        error(429, "overloaded", headers={}),
        error(429, "overloaded", body=b"<html>busy</html>"),
        whole(status=None, broken="reset"),
    ],
)
def test_errors_without_a_cause_are_found(bad: Outcome) -> None:
    assert len(audit.statuses([bad], [])) == 1


def test_a_deadline_that_breaks_off_behind_its_status_is_judged_as_a_broken_connection() -> None:
    cut = error(504, "deadline_exceeded", body=b"", broken="reset")
    assert audit.deadlines([cut], 30.0) == []
    assert len(audit.statuses([cut], [])) == 1
    assert len(audit.deadlines([error(504, "deadline_exceeded", body=b"")], 30.0)) == 1


def test_an_outage_excuses_what_it_explains() -> None:
    lost, away = whole(status=None, broken="reset"), error(503, "unavailable")
    assert audit.statuses([lost], [Outage("Ingress", 1.5, 3.0)]) == []
    assert len(audit.statuses([lost], [Outage("Router", 1.5, 3.0)])) == 1
    assert len(audit.statuses([lost], [Outage("Ingress", 20.0, 30.0)])) == 1
    assert len(audit.statuses([lost], [Outage("Ingress", -5.0, 30.0)])) == 1, "what merely overlaps explains nothing"
    assert len(audit.statuses([away], [Outage("Router", 0.0)])) == 1, "without a router requests wait"
    assert len(audit.statuses([away], [Outage("Engine-wren", 0.0)])) == 1, "others could have answered"
    assert len(audit.statuses([error(402, "budget_exceeded")], [Outage("Engine-wren", 0.0)])) == 1, "it may come again"
    dear = error(503, "unavailable", message="a model that could be paid has no replica now")
    assert audit.statuses([dear], [Outage("Engine-wren", 0.0)]) == []
    assert len(audit.statuses([dear], [Outage("Router", 0.0)])) == 1
    named = error(503, "unavailable", Shot(0, Kind.named, body=CHAT | {"model": "wren"}))
    assert audit.statuses([named], [Outage("Engine-wren", 0.0)]) == []


@pytest.mark.parametrize(
    "lines",
    [
        (EVENT,),
        (EVENT, "data: [DONE]"),
        (EVENT, COST, COST, "data: [DONE]"),
        (EVENT, COST, "data: [DONE]", "data: [DONE]"),
    ],
)
def test_streams_without_a_proper_end_are_found(lines: tuple[str, ...]) -> None:
    assert len(audit.streams([stream(*lines)], [])) == 1


def test_a_stream_breaks_only_when_its_engine_does() -> None:
    broken = stream(EVENT, BROKE, "data: [DONE]")
    assert audit.streams([broken], [Outage("Engine-wren", 1.5, 2.0)]) == []
    assert len(audit.streams([broken], [Outage("Engine-finch", 1.5, 2.0)])) == 1
    assert len(audit.streams([broken], [Outage("Engine-wren", -5.0, 9.0)])) == 1, "it began while the engine was away"


def test_answers_that_come_twice_or_differ_are_found() -> None:
    assert len(audit.answered_once([whole(0, name="a"), whole(1, name="a")])) == 1
    assert len(audit.answered_once([stream(EVENT, EVENT, COST, "data: [DONE]")])) == 1
    compared, wrong = audit.same_answers([whole(0), whole(1), whole(2, text="8")])
    assert (compared, len(wrong)) == (3, 1)


def test_wrong_costs_and_deadlines_are_found() -> None:
    assert len(audit.settled([whole()], {"wren": ModelPrice(1.0, 3.0)})) == 1
    hurried = Shot(0, Kind.hurried, body=CHAT, timeout_s=2.0)
    assert len(audit.deadlines([error(504, "deadline_exceeded", hurried)], 30.0)) == 1
    assert audit.deadlines([error(504, "deadline_exceeded", hurried, ended_s=3.1)], 30.0) == []
    assert len(audit.deadlines([error(504, "upstream", hurried, ended_s=3.1)], 30.0)) == 1


def test_the_ledger_must_agree_to_the_nano() -> None:
    def bill(nano: int, outcome: Outcome, *outages: Outage) -> int:
        return len(paid([outcome], outages, LedgerState(nano, 0, {"shot-0": nano}, 0)))

    assert [bill(20_000, whole()), bill(20_001, whole()), bill(19_999, whole())] == [0, 1, 1]
    assert [bill(0, error(429, "overloaded")), bill(1, error(429, "overloaded"))] == [0, 1]
    assert [bill(DEAREST_NANO, whole(left=True)), bill(DEAREST_NANO + 1, whole(left=True))] == [0, 1]
    retried = Outage("Engine-heron", 0.0, 5.0)
    assert [bill(20_000 + DEAREST_NANO, whole(), retried), bill(19_999, whole(), retried)] == [0, 1]
    after_s = whole().ended_s + UNTOLD_S
    untold, told = (Outage("Ingress", after_s + late_s, after_s + 9.0) for late_s in (-0.1, 0.1))
    assert [bill(DEAREST_NANO, whole(), outage) for outage in (untold, told)] == [0, 1]


def test_calm_means_that_nothing_is_held() -> None:
    calm = {
        "in_flight": 0,
        "waiting": 0,
        "reserved_usd": 0.0,
        "budget": {"reserved_usd": 0.0},
        "models": {"wren": {"slots": 64, "free_slots": 64}},
    }
    assert is_calm(calm)
    assert not is_calm(calm | {"in_flight": 1})
    assert not is_calm(calm | {"budget": {"reserved_usd": 1e-9}})
    assert not is_calm(calm | {"models": {"wren": {"slots": 64, "free_slots": 63}}})
    assert not is_calm({})


def test_a_plan_repeats_itself_and_holds_every_kind() -> None:
    kills = ("Predictor", "Router")
    plan = make_plan(2000, 3, bursts=2, burst_size=300, kills=kills)
    assert plan == make_plan(2000, 3, bursts=2, burst_size=300, kills=kills)
    assert plan != make_plan(2000, 4, bursts=2, burst_size=300, kills=kills)
    assert {shot.kind for shot in plan.shots} == set(MIX)
    assert sum(shot.burst is not None for shot in plan.shots) == 600
    assert 0 < plan.kills[0].at < plan.kills[1].at < 2000


def test_the_summary_counts_every_request_once() -> None:
    outcomes = [whole(), error(429, "overloaded"), stream(EVENT, BROKE, "data: [DONE]"), whole(left=True)]
    ends, by_kind = count_ends(outcomes)
    assert ends == {"answered": 1, "429 overloaded": 1, "error event: unavailable": 1, "client left": 1}
    assert end_of(whole(status=500, body=b"<html>")) == "connection lost"
    away = outage_seconds([Outage("Router", 1.0, 4.0), Outage("Router", 5.0, 6.0), Outage("Engine-wren", 1.0)])
    assert away == {"Router": 3.0, "Engine-wren": None}
    summary = Summary(4, 1.0, ends, by_kind, away, {}, 0, 0, 0.0, 0.0, {}, 0)
    assert "| all | 4 |" in summary.to_markdown()
    assert json.loads(summary.to_json())["requests"] == 4
