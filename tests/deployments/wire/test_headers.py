from dataclasses import replace

import pytest

from apportion.deployments.wire.headers import decision_headers, server_timing, verdict_json
from apportion.router.batch.messages import BatchInfo, Candidate, Decision, PlanTiming, Turn

BATCH = BatchInfo(1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, ())


def decision(timing: PlanTiming | None) -> Decision:
    return Decision("r", "small", 0.5, 1e-6, 0.0, "mip", "mip", BATCH, "replica", "http://x", timing)


def spans(header: bytes) -> dict[str, float]:
    return {part.split(";dur=")[0]: float(part.split(";dur=")[1]) for part in header.decode().split(", ")}


def test_the_spans_add_up_to_what_the_ingress_waited() -> None:
    name, value = server_timing(decision(PlanTiming(0.001, 0.008, 0.0005)), planned_s=0.012, engine_s=0.02)
    assert name == b"server-timing"
    assert spans(value) == {"link": 2.5, "queue": 1.0, "predict": 8.0, "solve": 0.5, "engine": 20.0}


def test_clocks_that_disagree_never_show_a_negative_span() -> None:
    _, value = server_timing(decision(PlanTiming(0.001, 0.008, 0.004)), planned_s=0.012, engine_s=0.02)
    assert spans(value)["link"] == 0


@pytest.mark.parametrize("timing", [None, PlanTiming(0, 0, 0)])
def test_the_engine_is_always_told(timing: PlanTiming | None) -> None:
    assert spans(server_timing(decision(timing), 0.0, 0.02)[1])["engine"] == 20


def test_a_candidate_says_what_it_promised_before_the_lift() -> None:
    candidates = (Candidate("small", 0.5, 0.5, 1e-6, 8.0, True), Candidate("large", 0.5, 0.25, 1e-5, 8.0, True))
    told = verdict_json(0, replace(decision(None), candidates=candidates))["candidates"]
    assert [(one["success"], one["calibrated_success"]) for one in told] == [(0.5, 0.5), (0.5, 0.25)]


def test_what_everybodys_batch_holds_is_told_to_those_who_may_know_it() -> None:
    told = dict(decision_headers(decision(None)))
    kept = dict(decision_headers(decision(None), batch_told=False))
    assert told.keys() - kept.keys() == {b"x-router-batch"}


def test_a_turn_of_a_conversation_is_told() -> None:
    assert dict(decision_headers(replace(decision(None), turn=Turn.stays)))[b"x-router-turn"] == b"stays"
    assert b"x-router-turn" not in dict(decision_headers(decision(None)))
    candidate = Candidate("small", 0.5, 0.5, 1e-6, 8.0, True, stay_value=0.05)
    assert verdict_json(0, replace(decision(None), candidates=(candidate,)))["candidates"][0]["stay_value"] == 0.05


def test_an_answer_that_was_cut_to_what_fits_is_told() -> None:
    assert dict(decision_headers(replace(decision(None), max_tokens=90)))[b"x-router-max-tokens"] == b"90"
    assert b"x-router-max-tokens" not in dict(decision_headers(decision(None)))
