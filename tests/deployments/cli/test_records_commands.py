"""`outcomes` on records as a service keeps them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from typer.testing import CliRunner, Result

from apportion.deployments.cli import app
from apportion.router.outcomes.files import read_outcomes
from apportion.router.records.schema import FEEDBACK, REQUESTS
from apportion.router.records.store import Store

NOW = datetime.now(UTC)


def records(folder: Path) -> str:
    """Three answers of two models, two of them judged; what was asked is not kept."""
    store = Store.open(str(folder))
    chosen = {"a": "small", "b": "large", "c": "small"}
    requests = [
        {"id": name, "time": NOW, "chosen": model, "ending": "answered", "status": 200, "cost_usd": 1e-6}
        for name, model in chosen.items()
    ]
    said = [{"id": name, "time": NOW, "key": "good", "number": number} for name, number in {"a": 1.0, "b": 0.0}.items()]
    store.append(REQUESTS, pa.Table.from_pylist(requests, REQUESTS.schema), NOW)
    store.append(FEEDBACK, pa.Table.from_pylist(said, FEEDBACK.schema), NOW)
    return str(folder)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["outcomes", *arguments])


def test_prompts_from_elsewhere_and_numbers_for_machines(tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    chats = [
        {"id": "a", "prompt": "one"},
        {"id": "b", "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "two"}]},
    ]
    asked.write_text("".join(json.dumps(line) + "\n" for line in chats))
    out = tmp_path / "table"
    options = ("--records", records(tmp_path / "records"), "--out", str(out), "--prompts", str(asked), "--days", "1")

    told = json.loads(run(*options, "--json", "-").stdout)
    table = read_outcomes(out)
    assert table.prompts == ["one", "be brief\n\ntwo"]
    assert [traits.system_chars for traits in table.traits] == [0, 8]
    assert (told["requests"], told["judged"], told["rows"], told["without_prompt"]) == (3, 2, 2, 0)
    assert told["rows_by_model"] == {"small": 1, "large": 1}

    people = run(*options, "--unjudged").output
    assert "3 requests, 3 answered, 2 of these judged; 2 rows" in people
    assert "1 left out: nobody knows what was asked" in people


def test_what_is_missing_is_said_without_a_traceback(tmp_path: Path) -> None:
    result = run("--records", records(tmp_path / "records"), "--out", str(tmp_path / "table"))

    assert result.exit_code == 2
    assert "none is known what was asked" in " ".join(result.output.split())
    assert run("--records", "nowhere://x", "--out", str(tmp_path)).exit_code == 2
