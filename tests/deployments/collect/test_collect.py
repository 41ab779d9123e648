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
import yaml
from typer.testing import CliRunner, Result

from apportion.deployments.cli import app
from apportion.deployments.collect.endpoint import wait_before
from apportion.deployments.collect.journal import open_journal
from apportion.router.errors import ConfigurationError
from apportion.router.outcomes import read_outcomes
from apportion.router.prices import ModelPrice
from apportion.router.traits import PLAIN, Traits
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
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    body = {"model": "ignored", "messages": chat, "max_tokens": 7, "temperature": 0.5, "tools": [tool]}
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
    assert table.traits == [*[PLAIN] * 4, Traits(tools=1, system_chars=4)]
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


FIRST = "What is 0 plus 2?"
DOWN = (503, {"error": {"message": "no healthy upstream"}})


def _many(folder: Path, n: int = 12) -> Path:
    file = folder / "many.txt"
    file.write_text("".join(f"What is {i} plus 2?\n" for i in range(n)))
    return file


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_an_outage_is_no_models_failure(server: FakeOpenAI, tmp_path: Path, concurrency: str) -> None:
    words = (server, _many(tmp_path), tmp_path / "o.jsonl", "good,bad", "--retries", "0", "--concurrency", concurrency)
    server.says["good"] = DOWN
    result = _run(*words, judge="regex:answer", code=2)
    assert "'good': HTTP 503: no healthy upstream, for 8 prompts in a row" in " ".join(result.stderr.split())
    assert all(row["model"] == "bad" for row in map(json.loads, (tmp_path / "o.jsonl").read_text().splitlines()))
    del server.says["good"]
    _run(*words, judge="regex:answer")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0, 1.0]] * 12


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_prompt_that_a_model_fails_for_good_is_its_failure(server: FakeOpenAI, tmp_path: Path, status: int) -> None:
    server.says["good", FIRST] = (status, {"error": {"message": "it broke"}})
    words = (server, _many(tmp_path, 3), tmp_path / "o.jsonl", "good", "--retries", "0", "--concurrency", "1")
    words = (*words, "--samples", "9")  # of one prompt there are more failures than of an outage
    _run(*words, judge="regex:answer")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[0.0], [1.0], [1.0]]
    asked = len(server.asked)
    _run(*words, judge="regex:answer")
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
    words = (server, _many(tmp_path, 3), tmp_path / "o.jsonl", "good", "--retries", "0", "--concurrency", "1")
    server.says["good", "What is 1 plus 2?"] = (status, said)
    result = _run(*words, judge="regex:answer", code=code)
    assert told in " ".join(result.output.split())
    if code == 0:
        assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0], [0.0], [1.0]]


def test_a_key_that_may_not_is_a_mistake_until_the_model_has_answered(server: FakeOpenAI, tmp_path: Path) -> None:
    server.says["good"] = (403, {"error": {"message": "not yours"}})
    words = (server, _many(tmp_path, 3), tmp_path / "o.jsonl", "good", "--retries", "0")
    assert "HTTP 403: not yours; correct key" in " ".join(_run(*words, code=2).stderr.split())


def test_usage_that_is_no_number_is_unknown(server: FakeOpenAI, tmp_path: Path) -> None:
    usage = {"prompt_tokens": "12", "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": -1}}
    server.says["good"] = (200, {"choices": [{"message": {"content": "6"}}], "usage": usage})
    _run(server, _many(tmp_path, 2), tmp_path / "o.jsonl", "good", "--price", "good=1,1", judge="regex:6")
    table = read_outcomes(tmp_path / "o.jsonl")
    assert np.isnan([table.input_tokens, table.output_tokens, table.cost_usd]).all()


@pytest.mark.parametrize(
    ("message", "judge"),
    [
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "It is 2"}]}, "regex:It is 2$"),
        ({"content": None, "refusal": "I will not"}, "regex:^I will not$"),
        ({"content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}, 'regex:"name": "add"'),
    ],
)
def test_what_is_no_plain_text_is_judged_too(
    server: FakeOpenAI, tmp_path: Path, message: dict[str, Any], judge: str
) -> None:
    server.says["good"] = (200, {"choices": [{"message": message}]})
    _run(server, _many(tmp_path, 2), tmp_path / "o.jsonl", "good", judge=judge)
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0], [1.0]]


def test_a_model_without_any_answer_is_told(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    result = _run(server, prompts, tmp_path / "o.jsonl", "good,short", "--json", "-")
    assert json.loads(result.stdout)["without_answers"] == ["short"]
    assert "'short' answered no prompt" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("expected", "judge", "score"),
    [
        (6.0, "regex:(\\d+)", 1.0),
        (["six", 6], "regex:(\\d+)", 1.0),
        (["six", "is 6$"], "regex", 1.0),
        (["six", 5], "regex:(\\d+)", 0.0),
        ([" The answer is 6 ", "7"], "exact", 1.0),
        ({"a": 6}, "exact", None),
        ([], "exact", None),
    ],
)
def test_what_is_expected_may_be_one_of_several(
    server: FakeOpenAI, tmp_path: Path, expected: Any, judge: str, score: float | None
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"prompt": "4 and 2", "expected": expected}))
    result = _run(server, file, tmp_path / "o.jsonl", "good", judge=judge, code=2 if score is None else 0)
    if score is None:
        assert "query '1' has no `expected` that the judge can compare with" in " ".join(result.stderr.split())
    else:
        assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[score]]


def test_all_that_a_batch_line_asks_is_sent_and_printed_prompts_are_what_they_print(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    chat = [{"role": "user", "content": "4 and 2"}]
    body = {
        "model": "x",
        "messages": repr(tuple(chat)),
        "n": 3,
        "stream": True,
        "thinking": {"budget": 1},
        "user": None,
    }
    file = tmp_path / "batch.jsonl"
    file.write_text(json.dumps({"custom_id": "a", "body": body, "top_k": 4, "note": "for the judge"}))
    _run(server, file, tmp_path / "o.jsonl", "good", judge="regex:6")
    file = tmp_path / "printed.txt"
    file.write_text("['What is 1', 'plus 2?']\n('3 and 4',)\n")
    _run(server, file, tmp_path / "p.jsonl", "good", "--concurrency", "1", judge="regex:answer")
    first, *others = ({name: one[name] for name in one if name != "path"} for one in server.asked)
    assert first == {"model": "good", "messages": chat, "thinking": {"budget": 1}, "top_k": 4}
    assert [one["messages"][0]["content"] for one in others] == ["What is 1\n\nplus 2?", "3 and 4"]


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


def test_a_model_that_answers_no_chats_gets_texts_as_completions(server: FakeOpenAI, tmp_path: Path) -> None:
    models = [
        {"name": name, "source": f"example/{name}", "input_usd_per_million": 1, "output_usd_per_million": 1, **more}
        for name, more in (("good", {}), ("bad", {"capabilities": {"chat": False}}))
    ]
    arguments = {"models": models, "predictor": {"artefact": "zoo:predictor"}}
    application = {"name": "a", "import_path": "apportion.deployments.app:build", "args": arguments}
    config = tmp_path / "serve_config.yaml"
    config.write_text(json.dumps({"applications": [application]}))
    file, out = tmp_path / "prompts.jsonl", tmp_path / "o.jsonl"
    chat = {"messages": [{"role": "user", "content": "3 and 4"}]}
    file.write_text("".join(json.dumps(row) + "\n" for row in ({"prompt": "1 and 2", "max_tokens": 8}, chat)))
    words = ("--config", str(config), "--url", server.url, "--prompts", file, "--judge", "regex:answer", "--out", out)
    assert CliRunner().invoke(app, ["collect", *map(str, words)]).exit_code == 0
    paths = {(asked["model"], asked.get("prompt")): asked["path"] for asked in server.asked}
    assert paths.pop(("bad", "1 and 2")) == "/v1/completions"
    assert set(paths.values()) == {"/v1/chat/completions"}  # what is a chat stays one
    assert len(server.asked) == 4
    # An answer to a text as a chat is none to the same text as a completion.
    models[0]["capabilities"] = {"chat": False}
    config.write_text(json.dumps({"applications": [application]}))
    changed = CliRunner().invoke(app, ["collect", *map(str, words)])
    assert (changed.exit_code, len(server.asked)) == (2, 4)
    said = " ".join(changed.stderr.split())
    assert ("query '1' is not what" in said, "an answer of 'good'" in said) == (True, True)


def test_completions_without_a_limit_are_warned_of(server: FakeOpenAI, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("1 and 2\n")
    told = _run(server, file, tmp_path / "o.jsonl", "good", "--completions", judge="regex:answer").stderr
    assert "give --max-tokens" in told
    limited = ("--completions", "--max-tokens", "8")
    told = _run(server, file, tmp_path / "p.jsonl", "good", *limited, judge="regex:answer").stderr
    assert "give --max-tokens" not in told


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
    rule = "(answer, row):\n    return answer.endswith(str(row['expected']))\n"
    (tmp_path / "my_judge.py").write_text(f"def right{rule}async def later{rule}")
    for name in ("right", "later"):
        _run(server, prompts, tmp_path / "o.jsonl", "good,bad", judge=f"my_judge:{name}")
        assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0, 0.0]] * 5
    assert len(server.asked) == 10


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
        ("command: ", "judge 'command: ': unknown"),
        ("command:echo 'x", "No closing quotation; correct its quotes"),
        ("broken_judge:f", "cannot be imported (SyntaxError"),
        ("json:decoder", "failed on query"),
    ],
)
def test_a_judge_that_fails_is_no_models_failure(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, judge: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_judge.py").write_text("def f(\n")
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


def test_a_configuration_says_where_to_ask(server: FakeOpenAI, tmp_path: Path, prompts: Path) -> None:
    from apportion.deployments import zoo

    document = yaml.safe_load(zoo.SERVE_CONFIG.read_text())
    document["http_options"] = {"host": "127.0.0.1", "port": httpx.URL(server.url).port}
    document["applications"][0]["route_prefix"] = "/llm"
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(document))
    words = ["collect", "--config", str(file), "--prompts", str(prompts), "--judge", REGEX, "--models", "wren"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "o.jsonl")])
    assert result.exit_code == 0, result.output
    assert {asked["path"] for asked in server.asked} == {"/llm/v1/chat/completions"}


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
