"""`apportion collect` against a real endpoint on this machine: what is asked, judged, journaled, and asked again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from apportion.deployments.cli import app
from apportion.deployments.collect.journal import open_journal
from apportion.router.errors import ConfigurationError
from apportion.router.outcomes import read_outcomes
from apportion.router.prices import ModelPrice
from apportion.router.traits import PLAIN, Traits
from tests.deployments.collect.command import REGEX, run, words_of
from tests.deployments.collect.openai_server import FakeOpenAI
from tests.paths import ROOT


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_fleet_is_asked_judged_and_recorded(server: FakeOpenAI, prompts: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"outcomes{suffix}"
    price = ("--price", "good=4,8,1", "--price", "bad=1,2")
    result = run(server, prompts, out, "good,bad", *price, "--json", "-", OPENAI_API_KEY="sk-secret")
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
    run(server, prompts, out, "good", "--price", "good=4,8")
    first = out.read_text()
    run(server, prompts, out, "good", "--price", "good=4,8")
    assert (len(server.asked), out.read_text()) == (5, first)
    run(server, prompts, out, "bad")
    assert len(server.asked) == 10
    table = read_outcomes(out)
    assert set(table.models) == {"good", "bad"}
    assert table.prices == {"good": ModelPrice(4, 8)}


def test_a_run_that_was_killed_goes_on_where_it_was(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "o.jsonl", tmp_path / "o.jsonl.journal"
    server.delay_s = 0.3
    words = words_of(server, prompts, out, "good,bad", "--concurrency", "1")
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
    run(server, prompts, out, "good,bad")
    assert len(server.asked) == asked + 10 - answered
    np.testing.assert_array_equal(read_outcomes(out).scores, [[1.0, 0.0]] * 5)


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
    run(server, file, tmp_path / "o.jsonl", "good", judge="regex:6")
    file = tmp_path / "printed.txt"
    file.write_text("['What is 1', 'plus 2?']\n('3 and 4',)\n")
    run(server, file, tmp_path / "p.jsonl", "good", "--concurrency", "1", judge="regex:answer")
    first, *others = ({name: one[name] for name in one if name != "path"} for one in server.asked)
    assert first == {"model": "good", "messages": chat, "thinking": {"budget": 1}, "top_k": 4}
    assert [one["messages"][0]["content"] for one in others] == ["What is 1\n\nplus 2?", "3 and 4"]


def test_the_number_of_requests_at_once_is_bounded(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    server.delay_s = 0.05
    run(server, prompts, tmp_path / "o.jsonl", "good,bad", "--concurrency", "3")
    assert server.most_at_once == 3


def test_the_budget_is_never_passed_and_a_larger_one_goes_on(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    """No answer of unknown cost is asked for unless the most that it can cost is left."""
    out, price = tmp_path / "o.jsonl", ("--price", "good=100,1000", "--max-tokens", "50")
    budget_usd = 0.40
    first = run(server, prompts, out, "good", *price, "--budget-usd", str(budget_usd), "--json", "-", code=0)
    assert json.loads(first.stdout)["left"] == 0
    server.usage, out = False, tmp_path / "unknown.jsonl"  # now every answer costs the most that it can
    some = run(server, prompts, out, "good", *price, "--budget-usd", str(budget_usd), "--json", "-", code=1)
    summary = json.loads(some.stdout)
    assert 0 < summary["outcomes"] < 5
    assert summary["outcomes"] + summary["left"] == 5
    assert summary["spent_usd"] <= budget_usd
    run(server, prompts, out, "good", *price, "--budget-usd", "10")
    assert len(read_outcomes(out)) == 5


@pytest.mark.parametrize("more", [("--price", "good=1,1"), ("--max-tokens", "5")])
def test_a_budget_needs_prices_and_limits(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, more: tuple[str, str]
) -> None:
    result = run(server, prompts, tmp_path / "o.jsonl", "good", "--budget-usd", "1", *more, code=2)
    assert "which --budget-usd needs; give --" in " ".join(result.stderr.split())
    assert not server.asked


def test_texts_go_to_completions_where_asked(server: FakeOpenAI, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("1 and 2\n3 and 4\n")
    run(server, file, tmp_path / "o.jsonl", "good", "--completions", judge="regex:answer")
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
    told = run(server, file, tmp_path / "o.jsonl", "good", "--completions", judge="regex:answer").stderr
    assert "give --max-tokens" in told
    limited = ("--completions", "--max-tokens", "8")
    told = run(server, file, tmp_path / "p.jsonl", "good", *limited, judge="regex:answer").stderr
    assert "give --max-tokens" not in told


def test_a_journal_of_other_questions_or_options_is_refused(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    run(server, prompts, out, "good")
    result = run(server, prompts, out, "good", "--temperature", "1", code=2)
    assert "holds answers that were asked for with parameters {}" in " ".join(result.stderr.split())
    prompts.write_text(prompts.read_text(encoding="utf-8-sig").replace("What is 3", "What is 8"))
    assert "query 'q3' is not what" in " ".join(run(server, prompts, out, "good", code=2).stderr.split())
    assert len(server.asked) == 5


def test_a_broken_journal_is_named(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "o.jsonl.journal").write_text("nonsense\n")
    result = run(server, prompts, tmp_path / "o.jsonl", "good", code=2)
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
