"""`apportion collect` against a real endpoint on this machine: what is asked, judged, journaled, and asked again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from apportion.deployments.cli import app
from apportion.deployments.collect.endpoint import wait_before
from apportion.deployments.collect.journal import open_journal
from apportion.router.errors import ConfigurationError
from apportion.router.outcomes import read_outcomes
from apportion.router.prices import ModelPrice
from tests.deployments.collect.openai_server import FakeOpenAI, serving
from tests.paths import ROOT

REGEX = r"regex:answer is (\d+)"


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with serving() as started:
        yield started


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"query_id": f"q{i}", "task": "sum", "prompt": f"What is {i} plus 2?", "expected": i + 2} for i in range(4)
    ]
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "4 and 2"}]
    body = {"model": "ignored", "messages": chat, "max_tokens": 7, "temperature": 0.5}
    rows.append({"custom_id": "batch", "url": "/v1/chat/completions", "body": body, "expected": "6", "prompt": None})
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\n" for row in rows).encode())
    return file


def _words(server: FakeOpenAI, prompts: Path, out: Path, models: str, *more: str, judge: str = REGEX) -> list[str]:
    endpoint = ["--url", server.url, "--models", models]
    return ["collect", *endpoint, "--prompts", str(prompts), "--judge", judge, "--out", str(out), *more]


def _run(*words: Any, judge: str = REGEX, code: int = 0, **env: str) -> Result:
    result = CliRunner().invoke(app, _words(*words, judge=judge), env=env)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_fleet_is_asked_judged_and_recorded(server: FakeOpenAI, prompts: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"outcomes{suffix}"
    price = ("--price", "good=4,8,1", "--price", "bad=1,2")
    result = _run(server, prompts, out, "good,bad", *price, "--json", "-", OPENAI_API_KEY="sk-secret")
    table = read_outcomes(out)
    assert table.models == ("good", "bad")
    np.testing.assert_array_equal(table.scores, [[1.0, 0.0]] * 5)
    assert table.prompts == [*(f"What is {i} plus 2?" for i in range(4)), "Add.\n\n4 and 2"]
    assert table.prices == {"good": ModelPrice(4, 8, 1), "bad": ModelPrice(1, 2)}
    np.testing.assert_allclose(table.cost_usd[0], [(6 * 4 + 4 * 1 + 5 * 8) / 1e6, 20e-6])
    summary = json.loads(result.stdout)
    assert (summary["outcomes"], summary["left"], summary["failures"]) == (10, 0, 0)
    assert summary["spent_usd"] == pytest.approx(table.cost_usd.sum())
    (batch,) = [a for a in server.asked if a["messages"][0]["role"] == "system" and a["model"] == "good"]
    assert (batch["max_tokens"], batch["temperature"]) == (7, 0.5)
    assert "expected" not in batch
    assert server.keys == {"Bearer sk-secret"}
    assert "sk-secret" not in "".join(f.read_text(errors="replace") for f in tmp_path.iterdir()) + result.output


def test_nothing_is_asked_twice_and_models_may_come_later(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    _run(server, prompts, out, "good", "--price", "good=4,8")
    first = out.read_text()
    _run(server, prompts, out, "good", "--price", "good=4,8")
    assert (len(server.asked), out.read_text()) == (5, first)
    _run(server, prompts, out, "bad")
    assert len(server.asked) == 10
    table = read_outcomes(out)
    assert set(table.models) == {"good", "bad"}
    assert table.prices == {"good": ModelPrice(4, 8)}


def test_another_judge_judges_again_without_asking(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    _run(server, prompts, out, "good")
    _run(server, prompts, out, "good", judge="exact")
    assert len(server.asked) == 5
    assert read_outcomes(out).scores.sum() == 0


def test_a_run_that_was_killed_goes_on_where_it_was(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "o.jsonl", tmp_path / "o.jsonl.journal"
    server.delay_s = 0.3
    words = _words(server, prompts, out, "good,bad", "--concurrency", "1")
    here = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from apportion.deployments.cli import app; app()", *words], env=here
    )
    try:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_text().count('"answer"') < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(0.5)  # what was under way ends at the server
    with journal.open("ab") as file:
        file.write(b'{"kind": "answer", "query_id": "q3", "mod')  # cut off in the middle of a line
    asked = len(server.asked)
    answered = journal.read_bytes().count(b'"kind": "answer", "query_id"') - 1
    assert 3 <= answered < 10
    server.delay_s = 0.0
    _run(server, prompts, out, "good,bad")
    assert len(server.asked) == asked + 10 - answered
    np.testing.assert_array_equal(read_outcomes(out).scores, [[1.0, 0.0]] * 5)


def test_the_endpoint_says_when_to_ask_again(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    _run(server, prompts, tmp_path / "o.jsonl", "flaky")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0]] * 5
    assert len(server.waited_s) == 5
    assert min(server.waited_s) >= 1.0


def test_rate_limits_without_end_are_nobodys_failure(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    result = _run(server, prompts, tmp_path / "o.jsonl", "flaky", "--retries", "0", "--concurrency", "1", code=2)
    assert "slow down; run this again later" in " ".join(result.stderr.split())
    assert '"answer"' not in (tmp_path / "o.jsonl.journal").read_text()


def test_failures_are_recorded_with_their_reason(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    result = _run(server, prompts, out, "good,short")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    failed = [row for row in rows if row["model"] == "short"]
    assert {(row["score"], row["error"], row["cost_usd"]) for row in failed} == {
        (0.0, "HTTP 400: maximum context length is 4 tokens", 0.0)
    }
    assert "5 failed with: HTTP 400: maximum context length is 4 tokens" in result.stdout
    _run(server, prompts, out, "good,short")
    assert len(server.asked) == 10
    _run(server, prompts, out, "good,short", "--retry-failures")
    assert len(server.asked) == 15


@pytest.mark.parametrize(
    ("models", "said"), [("unknown", "HTTP 404: no such model"), ("good", "cannot be reached")], ids=["model", "url"]
)
def test_a_mistake_of_the_command_is_nobodys_failure(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, models: str, said: str
) -> None:
    if models == "good":
        server.url = "http://127.0.0.1:9/v1"
    result = _run(server, prompts, tmp_path / "o.jsonl", models, "--retries", "0", code=2)
    assert said in " ".join(result.stderr.split())
    assert '"answer"' not in (tmp_path / "o.jsonl.journal").read_text()


def test_several_answers_make_a_fractional_score(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    _run(server, prompts, out, "odd", "--samples", "4", "--concurrency", "3")
    assert len(server.asked) == 20
    assert read_outcomes(out).scores.tolist() == [[0.5]] * 5


def test_the_number_of_requests_at_once_is_bounded(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    server.delay_s = 0.05
    _run(server, prompts, tmp_path / "o.jsonl", "good,bad", "--concurrency", "3")
    assert server.most_at_once == 3


def test_the_budget_is_never_passed_and_a_larger_one_goes_on(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    """No answer of unknown cost is asked for unless the most that it can cost is left."""
    out, price = tmp_path / "o.jsonl", ("--price", "good=100,1000", "--max-tokens", "50")
    budget_usd = 0.40
    first = _run(server, prompts, out, "good", *price, "--budget-usd", str(budget_usd), "--json", "-", code=0)
    assert json.loads(first.stdout)["left"] == 0
    server.usage, out = False, tmp_path / "unknown.jsonl"  # now every answer costs the most that it can
    some = _run(server, prompts, out, "good", *price, "--budget-usd", str(budget_usd), "--json", "-", code=1)
    summary = json.loads(some.stdout)
    assert 0 < summary["outcomes"] < 5
    assert summary["outcomes"] + summary["left"] == 5
    assert summary["spent_usd"] <= budget_usd
    _run(server, prompts, out, "good", *price, "--budget-usd", "10")
    assert len(read_outcomes(out)) == 5


@pytest.mark.parametrize("more", [("--price", "good=1,1"), ("--max-tokens", "5")])
def test_a_budget_needs_prices_and_limits(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, more: tuple[str, str]
) -> None:
    result = _run(server, prompts, tmp_path / "o.jsonl", "good", "--budget-usd", "1", *more, code=2)
    assert "which --budget-usd needs; give --" in " ".join(result.stderr.split())
    assert not server.asked


def test_texts_go_to_completions_where_asked(server: FakeOpenAI, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("1 and 2\n3 and 4\n")
    _run(server, file, tmp_path / "o.jsonl", "good", "--completions", judge="regex:answer")
    assert {asked["path"] for asked in server.asked} == {"/v1/completions"}
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("form", ["number", "object"])
def test_a_command_judges(server: FakeOpenAI, prompts: Path, tmp_path: Path, form: str) -> None:
    script = tmp_path / "judge.py"
    printed = "score" if form == "number" else "json.dumps({'score': score})"
    script.write_text(
        "import json, sys\ngiven = json.load(sys.stdin)\n"
        "right = given['answer'].endswith(' ' + str(given['expected'])) and given['model'] == 'good'\n"
        "score = 0.75 if right else 0.25\n"
        f"print({printed})\n"
    )
    _run(server, prompts, tmp_path / "o.jsonl", "good,bad", judge=f"command:{sys.executable} {script}")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[0.75, 0.25]] * 5


def test_a_python_function_judges(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_judge.py").write_text("def right(answer, row):\n    return answer.endswith(str(row['expected']))\n")
    _run(server, prompts, tmp_path / "o.jsonl", "good,bad", judge="my_judge:right")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0, 0.0]] * 5


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("command:false", "ended with 1 for query"),
        ("command:echo good", "gave no number from 0 to 1"),
        ("command:nosuchcommand", "cannot be run"),
        ("command:sleep 60", "took more than 0.3 s"),
        ("math:hypot", "failed on query"),
        ("nosuchmodule:f", "cannot be imported"),
        ("regex:(", "no regular expression"),
        ("guess", "judge 'guess': unknown"),
    ],
)
def test_a_judge_that_fails_is_no_models_failure(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, judge: str, said: str
) -> None:
    words = (server, prompts, tmp_path / "o.jsonl", "good", "--judge-timeout-s", "0.3")
    result = _run(*words, judge=judge, code=2)
    assert said in " ".join(result.stderr.split())
    journal = tmp_path / "o.jsonl.journal"
    kept = journal.read_text().count('"kind": "answer"') if journal.exists() else 0
    _run(*words[:4])  # what was answered is judged, not asked for again; what was under way is
    assert len(server.asked) <= 5 + (5 - kept)
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0]] * 5


def test_a_journal_of_other_questions_or_options_is_refused(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    _run(server, prompts, out, "good")
    result = _run(server, prompts, out, "good", "--temperature", "1", code=2)
    assert "holds answers that were asked for with parameters {}" in " ".join(result.stderr.split())
    prompts.write_text(prompts.read_text(encoding="utf-8-sig").replace("What is 3", "What is 8"))
    assert "query 'q3' is not what" in " ".join(_run(server, prompts, out, "good", code=2).stderr.split())
    assert len(server.asked) == 5


def test_a_broken_journal_is_named(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "o.jsonl.journal").write_text("nonsense\n")
    result = _run(server, prompts, tmp_path / "o.jsonl", "good", code=2)
    assert "o.jsonl.journal, line 1: no line of a journal" in "".join(result.stderr.split("\n"))


def test_a_configuration_names_models_and_prices(server: FakeOpenAI, tmp_path: Path, prompts: Path) -> None:
    from apportion.deployments import zoo

    out = tmp_path / "o.jsonl"
    words = ["collect", "--config", str(zoo.SERVE_CONFIG), "--url", server.url, "--prompts", str(prompts)]
    result = CliRunner().invoke(app, [*words, "--judge", REGEX, "--out", str(out)])
    assert result.exit_code == 0, result.output
    table = read_outcomes(out)
    assert "wren" in table.models
    assert set(table.prices) == set(table.models)


def test_an_attempt_that_was_lost_counts_as_charged(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    server.delay_s = 2.0
    out, words = tmp_path / "o.jsonl", ("--price", "good=0,1000", "--max-tokens", "50", "--timeout-s", "0.3")
    result = _run(server, prompts, out, "good", *words, "--retries", "1", "--budget-usd", "5", "--json", "-")
    summary = json.loads(result.stdout)
    assert summary["reasons"] == {"ReadTimeout": 5}
    assert summary["spent_usd"] == pytest.approx(
        2 * (4 * 50 + 7) * 1000 / 1e6
    )  # both attempts; one line has a limit of 7
    few = (*words, "--retries", "9", "--concurrency", "1", "--budget-usd", "0.12", "--json", "-")
    summary = json.loads(_run(server, prompts, tmp_path / "few.jsonl", "good", *few, code=1).stdout)
    assert summary["outcomes"] == 0
    assert summary["spent_usd"] <= 0.12


def test_only_one_process_writes_a_journal(tmp_path: Path) -> None:
    with open_journal(tmp_path / "x") as first:
        first.append({"kind": "score", "query_id": "a", "model": "m", "sample": 0, "judge": "j", "score": 1})
        with pytest.raises(ConfigurationError, match="another process collects"), open_journal(tmp_path / "x"):
            pass
    with open_journal(tmp_path / "x") as again:
        assert again.scores == {(("a", "m", 0), "j"): 1}


def test_half_a_surrogate_pair_in_an_answer_is_journaled(tmp_path: Path) -> None:
    with open_journal(tmp_path / "x") as journal:
        journal.append({"kind": "answer", "query_id": "ü", "model": "m", "sample": 0, "text": "half \ud83d"})
    with open_journal(tmp_path / "x") as again:
        assert again.answers["ü", "m", 0]["text"] == "half \ud83d"


@pytest.mark.parametrize(("told", "wait_s"), [("3", 3.0), ("0", 0.0), ("99999", 600.0), ("-1", 0.0)])
def test_retry_after_is_seconds(told: str, wait_s: float) -> None:
    assert wait_before(httpx.Response(429, headers={"retry-after": told}), 0) == wait_s


def test_retry_after_may_be_a_date_or_missing() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < wait_before(httpx.Response(503, headers={"retry-after": soon}), 0) <= 30
    assert 4 <= wait_before(httpx.Response(503), 3) <= 8
    assert wait_before(None, 30) <= 60
