"""`apportion collect`'s judges: expressions, commands, functions, and what they are given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from apportion.router.outcomes import read_outcomes
from tests.deployments.collect.command import many, run
from tests.deployments.collect.openai_server import FakeOpenAI


def test_another_judge_judges_again_without_asking(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    run(server, prompts, out, "good")
    run(server, prompts, out, "good", judge="exact")
    assert len(server.asked) == 5
    assert read_outcomes(out).scores.sum() == 0


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
    run(server, many(tmp_path, 2), tmp_path / "o.jsonl", "good", judge=judge)
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0], [1.0]]


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
    result = run(server, file, tmp_path / "o.jsonl", "good", judge=judge, code=2 if score is None else 0)
    if score is None:
        assert "query '1' has no `expected` that the judge can compare with" in " ".join(result.stderr.split())
    else:
        assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[score]]


def test_several_answers_make_a_fractional_score(server: FakeOpenAI, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    run(server, prompts, out, "odd", "--samples", "4", "--concurrency", "3")
    assert len(server.asked) == 20
    assert read_outcomes(out).scores.tolist() == [[0.5]] * 5


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
    run(server, prompts, tmp_path / "o.jsonl", "good,bad", judge=f"command:{sys.executable} {script}")
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[0.75, 0.25]] * 5


def test_a_python_function_judges(
    server: FakeOpenAI, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    rule = "(answer, row):\n    return answer.endswith(str(row['expected']))\n"
    (tmp_path / "my_judge.py").write_text(f"def right{rule}async def later{rule}")
    for name in ("right", "later"):
        run(server, prompts, tmp_path / "o.jsonl", "good,bad", judge=f"my_judge:{name}")
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
    result = run(*words, judge=judge, code=2)
    assert said in " ".join(result.stderr.split())
    journal = tmp_path / "o.jsonl.journal"
    kept = journal.read_text().count('"kind": "answer"') if journal.exists() else 0
    run(*words[:4])  # what was answered is judged, not asked for again; what was under way is
    assert len(server.asked) <= 5 + (5 - kept)
    assert read_outcomes(tmp_path / "o.jsonl").scores.tolist() == [[1.0]] * 5
