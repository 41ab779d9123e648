import asyncio
import json

import pytest

from apportion.deployments.engine.server import EngineServer
from benchmarks.load.chat import Answer
from benchmarks.load.numbers import Target
from benchmarks.load.report import write
from benchmarks.load.service import Place
from benchmarks.stamp import stamp
from benchmarks.throughput import report, vllm_bench
from benchmarks.throughput.case import LONG, LONG_TOKENS, SHORT, Case, closed_cases
from benchmarks.throughput.round import direct, right, routed
from benchmarks.throughput.run import _row, targets
from benchmarks.zoo.tasks import generate
from tests.deployments.ingress.dispatching import simulated

TARGET = Target(first_token_s=1.0, latency_s=2.0)
EXAMPLES = generate("test", 16, seed=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("arrival", [{"concurrency": 4}, {"rate_per_s": 100.0}])
def test_the_mix_that_answered_is_sent_straight_to_its_engines(engine: str, stream: bool, arrival: dict) -> None:
    case = Case(SHORT, stream, 24, **arrival)
    through, mix = routed(case, engine, EXAMPLES, TARGET, seed=0)
    assert mix == ["simulated"] * 24
    straight = direct(
        case, {"other": Place("http://127.0.0.1:9"), "simulated": Place(engine)}, mix, EXAMPLES, TARGET, seed=0
    )
    row = _row(case, [(through, straight)] * 2)
    for found in (row["routed"], row["direct"]):
        assert found["errors"] == 0
        assert found["requests"] == 48
        assert found["settled_answers"] == 48
        assert found["right"] == 0  # it says the same to every question
        assert (found["first_token_ms"] is not None) is stream
    assert row["ratio"]["rounds"][0] == pytest.approx(through["requests_per_s"] / straight["requests_per_s"])


async def test_an_engine_gets_the_token_that_it_asks_for() -> None:
    server = EngineServer(simulated(), "127.0.0.1", token="right")
    await server.start()
    case = Case(SHORT, False, 2, concurrency=1)
    try:
        for token, errors in (("right", 0), ("wrong", 2)):
            places = {"a": Place(server.url, token)}
            found = await asyncio.to_thread(direct, case, places, ["a", "a"], EXAMPLES, TARGET, 0)
            assert found["errors"] == errors
    finally:
        await server.stop()


def test_a_refused_request_goes_to_any_engine(engine: str) -> None:
    found = direct(Case(LONG, False, 2, concurrency=1), {"a": Place(engine)}, ["", "a"], EXAMPLES, TARGET, seed=0)
    assert found["errors"] == 0
    assert found["right"] is None


def test_long_answers_have_a_fixed_length() -> None:
    assert Case(LONG, False, 1, concurrency=1).body(EXAMPLES[0], "auto")["max_tokens"] == LONG_TOKENS
    assert Case(LONG, False, 1, concurrency=1).body(EXAMPLES[0], "auto")["ignore_eos"] is True
    assert "ignore_eos" not in Case(SHORT, False, 1, concurrency=1).body(EXAMPLES[0], "auto")


def test_cases_cover_what_is_asked_and_have_names_of_their_own() -> None:
    cases = closed_cases(0.1)
    assert {(case.concurrency, case.stream) for case in cases if case.answers == SHORT} == {
        (concurrency, stream) for concurrency in (1, 4, 16, 64) for stream in (False, True)
    }
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.requests >= 2 * case.concurrency for case in cases)


def test_a_failed_request_is_not_right() -> None:
    good = Answer(text=EXAMPLES[0].answer)
    failed = Answer(text=EXAMPLES[1].answer, error="500")
    assert right([good, failed], EXAMPLES) == 0.5


def test_the_target_is_judged_where_engines_are_the_bottleneck() -> None:
    rows = [{"load": name, "answers": name, "ratio": {"median": 0.9}} for name in (SHORT, LONG)]
    assert [(aim["target"].endswith(LONG), aim["met"]) for aim in targets(rows)] == [(True, False)]


def test_one_round_has_no_range(engine: str) -> None:
    case = Case(SHORT, True, 8, concurrency=4)
    through, _ = routed(case, engine, EXAMPLES, TARGET, seed=0)
    rounds = [(through | {"requests_per_s": rate}, through | {"requests_per_s": 100.0}) for rate in (90.0, 70.0, 85.0)]
    once, thrice = _row(case, rounds[:1]), _row(case, rounds)
    result = {"stamp": stamp(first_token_target_s=1.0, latency_target_s=2.0), "closed": [thrice], "open": [once]}
    lines = report.section(result | {"vllm_bench_serve": [], "targets": []})
    ratios = [line.split(" | ")[3] for line in lines if line.startswith(f"| {case.name} |") and line.count("|") == 13]
    assert ratios == ["0.85 [0.70, 0.90]", "0.90"]


def test_the_page_follows_from_the_result(engine: str, tmp_path) -> None:
    case = Case(SHORT, True, 8, concurrency=4)
    through, mix = routed(case, engine, EXAMPLES, TARGET, seed=0)
    straight = direct(case, {"simulated": Place(engine)}, mix, EXAMPLES, TARGET, seed=0)
    row = _row(case, [(through, straight)])
    result = {
        "stamp": stamp(first_token_target_s=1.0, latency_target_s=2.0),
        "closed": [row],
        "open": [],
        "vllm_bench_serve": [],
        "targets": targets([row | {"answers": LONG}]),
    }
    write(result, report, tmp_path / "throughput.json")
    assert json.loads((tmp_path / "throughput.json").read_text())["closed"][0]["load"] == case.name
    page = (tmp_path / "throughput.md").read_text()
    assert page.count(f"| {case.name} |") == 2
    assert "0 / 0 |" in page


@pytest.mark.slow
def test_vllms_own_benchmark_measures_the_same(engine: str) -> None:
    pytest.importorskip("vllm")
    cases = [Case(SHORT, True, 12, concurrency=4), Case(SHORT, True, 12, rate_per_s=50.0)]
    found = vllm_bench.measure(cases, engine, "deployments/zoo/models/wren", EXAMPLES, TARGET, seed=0)
    assert [one["load"] for one in found] == [case.name for case in cases]
    for one in found:
        assert one["completed"] == 12
        assert one["failed"] == 0
        assert one["request_goodput"] > 0
        assert 0 < one["ttft_ms"]["p50"] <= one["e2el_ms"]["p50"]


def test_vllms_benchmark_that_fails_says_why(engine: str, monkeypatch) -> None:
    monkeypatch.setattr(vllm_bench, "sys", type("broken", (), {"executable": "/bin/false"}))
    with pytest.raises(RuntimeError, match="vllm bench serve failed"):
        vllm_bench.measure([Case(SHORT, True, 4, concurrency=2)], engine, "none", EXAMPLES, TARGET, seed=0)
