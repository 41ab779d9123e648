"""`apportion collect` where endpoints fail: what is a model's failure, what is asked again, and what ends the run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from apportion.deployments.collect.endpoint import wait_before
from apportion.router.outcomes import read_outcomes
from tests.deployments.collect.command import FIRST, many, run
from tests.deployments.collect.openai_server import FakeOpenAI


def test_the_endpoint_says_when_to_ask_again(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    run(server, prompts, tmp_path / "o.jsonl", "flaky")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0]] * 5
    assert len(server.waited_s) == 5
    assert min(server.waited_s) >= 1.0


def test_rate_limits_without_end_are_nobodys_failure(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    result = run(server, prompts, tmp_path / "o.jsonl", "flaky", "--retries", "0", "--concurrency", "1", code=2)
    assert "slow down; run this again later" in " ".join(result.stderr.split())
    assert '"answer"' not in (tmp_path / "o.jsonl.journal").read_text()


def test_failures_are_recorded_with_their_reason(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    result = run(server, prompts, out, "good,short")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    failed = [row for row in rows if row["model"] == "short"]
    assert {(row["score"], row["error"], row["cost_usd"]) for row in failed} == {
        (0.0, "HTTP 400: maximum context length is 4 tokens", 0.0)
    }
    assert "5 failed with: HTTP 400: maximum context length is 4 tokens" in result.stdout
    run(server, prompts, out, "good,short")
    assert len(server.asked) == 10
    run(server, prompts, out, "good,short", "--retry-failures")
    assert len(server.asked) == 15


@pytest.mark.parametrize(
    ("models", "said"), [("unknown", "HTTP 404: no such model"), ("good", "cannot be reached")], ids=["model", "url"]
)
def test_a_mistake_of_the_command_is_nobodys_failure(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, models: str, said: str
) -> None:
    if models == "good":
        server.url = "http://127.0.0.1:9/v1"
    result = run(server, prompts, tmp_path / "o.jsonl", models, "--retries", "0", code=2)
    assert said in " ".join(result.stderr.split())
    assert '"answer"' not in (tmp_path / "o.jsonl.journal").read_text()


DOWN = (503, {"error": {"message": "no healthy upstream"}})


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_an_outage_is_no_models_failure(server: FakeOpenAI, tmp_path: Path, concurrency: str) -> None:
    words = (server, many(tmp_path), tmp_path / "o.jsonl", "good,bad", "--retries", "0", "--concurrency", concurrency)
    server.says["good"] = DOWN
    result = run(*words, judge="regex:answer", code=2)
    assert "'good': HTTP 503: no healthy upstream, for 8 prompts in a row" in " ".join(result.stderr.split())
    assert all(row["model"] == "bad" for row in map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines()))
    del server.says["good"]
    run(*words, judge="regex:answer")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0, 1.0]] * 12


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_prompt_that_a_model_fails_for_good_is_its_failure(server: FakeOpenAI, tmp_path: Path, status: int) -> None:
    server.says["good", FIRST] = (status, {"error": {"message": "it broke"}})
    words = (server, many(tmp_path, 3), tmp_path / "o.jsonl", "good", "--retries", "0", "--concurrency", "1")
    words = (*words, "--samples", "9")  # of one prompt there are more failures than of an outage
    run(*words, judge="regex:answer")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[0.0], [1.0], [1.0]]
    asked = len(server.asked)
    run(*words, judge="regex:answer")
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("status", "said", "code", "told"),
    [
        (200, {"error": {"message": "upstream broke", "code": 502}}, 0, "HTTP 502: upstream broke"),
        (200, {"choices": [{"error": {"message": "cut off", "code": 400}}]}, 0, "HTTP 400: cut off"),
        (200, {"error": "it broke"}, 0, "HTTP 500: it broke"),
        (200, {"object": "list"}, 0, "the answer is none of OpenAI's form"),
        (200, {"choices": [{"message": {"content": {"a": 1}}}]}, 0, "the answer is none of OpenAI's form"),
        (403, {"error": {"message": "flagged"}}, 0, "HTTP 403: flagged"),
        (200, "<html>Welcome</html>", 2, "no JSON object; give --url up to /v1"),
        (200, "[]", 2, "no JSON object; give --url up to /v1"),
        (301, "", 2, "HTTP 301"),
        (401, {"error": {"message": "no such key"}}, 2, "HTTP 401: no such key; correct key"),
    ],
)
def test_an_endpoints_odd_answers_are_told_apart(
    server: FakeOpenAI, tmp_path: Path, status: int, said: Any, code: int, told: str
) -> None:
    words = (server, many(tmp_path, 3), tmp_path / "o.jsonl", "good", "--retries", "0", "--concurrency", "1")
    server.says["good", "What is 1 plus 2?"] = (status, said)
    result = run(*words, judge="regex:answer", code=code)
    assert told in " ".join(result.output.split())
    if code == 0:
        assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0], [0.0], [1.0]]


def test_a_key_that_may_not_is_a_mistake_until_the_model_has_answered(server: FakeOpenAI, tmp_path: Path) -> None:
    server.says["good"] = (403, {"error": {"message": "not yours"}})
    words = (server, many(tmp_path, 3), tmp_path / "o.jsonl", "good", "--retries", "0")
    assert "HTTP 403: not yours; correct key" in " ".join(run(*words, code=2).stderr.split())


def test_usage_that_is_no_number_is_unknown(server: FakeOpenAI, tmp_path: Path) -> None:
    usage = {"prompt_tokens": "12", "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": -1}}
    server.says["good"] = (200, {"choices": [{"message": {"content": "6"}}], "usage": usage})
    run(server, many(tmp_path, 2), tmp_path / "o.jsonl", "good", "--price", "good=1,1", judge="regex:6")
    table = read_outcomes(tmp_path / "o.jsonl")
    assert np.isnan([table.input_tokens, table.output_tokens, table.cost_usd]).all()


def test_a_model_without_any_answer_is_told(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    result = run(server, prompts, tmp_path / "o.jsonl", "good,short", "--json", "-")
    assert json.loads(result.stdout)["without_answers"] == ["short"]
    assert "'short' answered no prompt" in " ".join(result.stderr.split())


def test_an_attempt_that_was_lost_counts_as_charged(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    server.delay_s = 2.0
    out, words = tmp_path / "o.jsonl", ("--price", "good=0,1000", "--max-tokens", "50", "--timeout-s", "0.3")
    result = run(server, prompts, out, "good", *words, "--retries", "1", "--budget-usd", "5", "--json", "-")
    summary = json.loads(result.stdout)
    assert summary["reasons"] == {"ReadTimeout": 5}
    assert summary["spent_usd"] == pytest.approx(
        2 * (4 * 50 + 7) * 1000 / 1e6
    )  # both attempts; one line has a limit of 7
    few = (*words, "--retries", "9", "--concurrency", "1", "--budget-usd", "0.12", "--json", "-")
    summary = json.loads(run(server, prompts, tmp_path / "few.jsonl", "good", *few, code=1).stdout)
    assert summary["outcomes"] == 0
    assert summary["spent_usd"] <= 0.12


@pytest.mark.parametrize(("told", "wait_s"), [("3", 3.0), ("0", 0.0), ("99999", 600.0), ("-1", 0.0)])
def test_retry_after_is_seconds(told: str, wait_s: float) -> None:
    assert wait_before(httpx.Response(429, headers={"retry-after": told}), 0) == wait_s


def test_retry_after_may_be_a_date_or_missing() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < wait_before(httpx.Response(503, headers={"retry-after": soon}), 0) <= 30
    assert 4 <= wait_before(httpx.Response(503), 3) <= 8
    assert wait_before(None, 30) <= 60
