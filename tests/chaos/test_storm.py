"""Ten thousand requests against the real application while its parts are killed, and what must hold afterwards.

`APPORTION_CHAOS=full` sends all of them (some 10 minutes); otherwise a slice that is good for every test run.
`APPORTION_CHAOS_OUT` names a file for the summary.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks.stamp import stamp
from tests.chaos import audit
from tests.chaos.ledger import paid
from tests.chaos.plan import Kind
from tests.chaos.storm import FULL, SLICE, SLOTS, TIMEOUT_S, TWO_WAYS, Storm, is_calm, run_storm
from tests.chaos.summary import Summary, count_ends, outage_seconds
from tests.deployments.conftest import free_port
from tests.deployments.service import CONFIG

FULL_RUN = os.environ.get("APPORTION_CHAOS") == "full"
pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(1500)]

SEED = 20
BREAKING_OFF = 2  # of each engine: answers whose clients have left count until it has broken them off
LEAK_RATIO, LEAK_MB = 1.25, 150  # a part may have grown by so much: caches of vLLM and Python's heap


@pytest.fixture(scope="module")
def storm(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    document = yaml.safe_load(CONFIG.read_text())
    document["http_options"]["port"] = free_port()
    size = FULL if FULL_RUN else SLICE
    storm = run_storm(document, tmp_path_factory.mktemp("storm"), size, SEED)
    summary = summarise(storm)
    print(summary.to_json(), summary.to_markdown(), sep="\n")
    if out := os.environ.get("APPORTION_CHAOS_OUT"):
        settings = {"seed": SEED, "requests": size.requests, "bursts": size.bursts, "burst_size": size.burst_size}
        Path(out).write_text(json.dumps({"stamp": stamp(**settings), **dataclasses.asdict(summary)}, indent=1) + "\n")
    return storm


def violations(storm: Storm) -> list[str]:
    return [
        *audit.accounted(len(storm.plan.shots), storm.outcomes),
        *audit.deadlines(storm.outcomes, TIMEOUT_S),
        *audit.statuses(storm.outcomes, storm.outages),
        *audit.streams(storm.outcomes, storm.outages),
        *audit.answered_once(storm.outcomes),
        *audit.settled(storm.outcomes, storm.prices),
        *paid(storm.outcomes, storm.outages, storm.ledger),
    ]


def summarise(storm: Storm) -> Summary:
    ends, by_kind = count_ends(storm.outcomes)
    compared, deviating = audit.same_answers(storm.outcomes)
    rungs = Counter((outcome.headers or {}).get("x-router-rung") for outcome in storm.outcomes)
    before, after = storm.memory_mb
    return Summary(
        requests=len(storm.outcomes),
        seconds=round(storm.seconds, 1),
        ends=ends,
        by_kind=by_kind,
        outages_s=outage_seconds(storm.outages),
        rungs={rung: count for rung, count in rungs.items() if rung},
        compared_answers=compared,
        deviating_answers=len(deviating),
        told_usd=sum(float(o.settled_usd or 0) for o in storm.outcomes),
        spent_usd=storm.ledger.spent_nano / 1e9,
        memory_mb={role: (before[role], after[role]) for role in sorted(before | after)},
        violations=len(violations(storm)),
    )


def test_every_request_has_one_end_and_none_hangs(storm: Storm) -> None:
    assert audit.accounted(len(storm.plan.shots), storm.outcomes) == []


def test_deadlines_are_kept(storm: Storm) -> None:
    assert audit.deadlines(storm.outcomes, TIMEOUT_S) == []
    assert any(outcome.status == 504 for outcome in storm.of(Kind.hurried))
    assert any(outcome.status == 200 for outcome in storm.of(Kind.hurried))


def test_answers_are_right_and_errors_are_clean(storm: Storm) -> None:
    assert audit.statuses(storm.outcomes, storm.outages) == []


def test_streams_end_once(storm: Storm) -> None:
    assert audit.streams(storm.outcomes, storm.outages) == []
    assert sum(outcome.streamed and outcome.status == 200 for outcome in storm.outcomes) > 50


def test_nothing_is_answered_twice_and_nobody_gets_anothers_answer(storm: Storm) -> None:
    assert audit.answered_once(storm.outcomes) == []
    compared, deviating = audit.same_answers(storm.outcomes)
    assert compared > 100
    # A sequence's company in the engine's batch changes the last bits of its logits, and so, rarely, a tie.
    assert len(deviating) <= compared / 500, deviating


def test_every_part_is_back(storm: Storm) -> None:
    assert [outage.part for outage in storm.outages] == [kill.part for kill in storm.plan.kills]
    assert [outage.part for outage in storm.outages if outage.back_s is None] == []


def test_a_dead_predictor_costs_a_rung_and_not_an_answer(storm: Storm) -> None:
    rungs = Counter((outcome.headers or {}).get("x-router-rung") for outcome in storm.outcomes)
    assert rungs["static"] > 0
    assert rungs["mip"] > 0


def test_a_full_queue_sheds_at_once(storm: Storm) -> None:
    shed = [outcome for outcome in storm.outcomes if outcome.status == 429 and outcome.shot.burst is not None]
    assert shed
    assert all((outcome.error or {})["code"] == "overloaded" for outcome in shed)


def test_slots_and_reservations_are_back_at_zero(storm: Storm) -> None:
    assert is_calm(storm.state), storm.state
    assert (storm.ledger.reserved_nano, storm.ledger.held) == (0, 0)


def test_a_model_answers_in_both_ways_on_its_one_engine(storm: Storm) -> None:
    names = Counter((outcome.headers or {}).get("x-router-model") for outcome in storm.outcomes)
    assert min(names[f"{TWO_WAYS}@whole"], names[f"{TWO_WAYS}@brief"]) > 0, names
    assert storm.state["models"][TWO_WAYS] == {"slots": SLOTS, "free_slots": SLOTS, "asleep": False}


def test_no_engine_has_more_answers_at_once_than_slots(storm: Storm) -> None:
    peaks = Counter[str]()
    for model, peak in storm.peaks.values():
        peaks[model] = max(peaks[model], peak)
    assert set(peaks) == set(storm.prices)
    assert min(peaks.values()) >= SLOTS, "the burst fills them, those that two variants share as well"
    assert max(peaks.values()) <= SLOTS + BREAKING_OFF, peaks


def test_each_answer_costs_its_tokens(storm: Storm) -> None:
    assert audit.settled(storm.outcomes, storm.prices) == []


def test_the_ledger_is_the_sum_of_usages(storm: Storm) -> None:
    assert storm.ledger.spent_nano == sum(storm.ledger.spent_by_tenant.values())
    assert paid(storm.outcomes, storm.outages, storm.ledger) == []


def test_a_spent_budget_stays_spent(storm: Storm) -> None:
    poor = storm.of(Kind.poor)
    told_nano = sum(round(float(outcome.settled_usd or 0) * 1e9) for outcome in poor)
    spent_nano = storm.ledger.spent_by_tenant["poor"]
    assert told_nano <= spent_nano <= round(storm.poor_usd * 1e9)
    refused = [
        outcome for outcome in poor if (outcome.error or {}).get("code") in {"budget_exceeded", "budget_exhausted"}
    ]
    assert refused
    assert any(outcome.status == 200 for outcome in poor)


def test_no_memory_is_left_behind(storm: Storm) -> None:
    before, after = storm.memory_mb
    grown = {role: (before[role], mb) for role, mb in after.items() if mb > LEAK_RATIO * before[role] + LEAK_MB}
    assert grown == {}
    assert after.total() <= LEAK_RATIO * before.total()


def test_no_process_is_left_behind(storm: Storm) -> None:
    assert storm.left == []
