import json
from pathlib import Path

from rich.console import Console

from benchmarks.ceiling import report, run
from benchmarks.ceiling.cases import Aim, Case
from benchmarks.load.report import write

CASES = (
    Case("empty", ingresses=2, in_flight=64),
    Case("full", ingresses=3, in_flight=64, full=True, capped=True, places=300),
    Case("keys", in_flight=64, accounts=20, ledger=True, budgets=True),
)
AIMS = (Aim("empty", 1.0), Aim("full", 1e9), Aim("keys", 1e-9, beside="empty"))


def test_every_case_is_measured_in_its_state(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "CASES", CASES)
    monkeypatch.setattr(run, "AIMS", AIMS)
    console = Console(width=200, record=True)
    result = run.run(requests=300, rounds=1, seed=0, console=console)
    empty, full, keys = result["cases"]
    assert [empty["waiting"], keys["waiting"]] == [0, 0]
    assert 200 <= full["waiting"] <= 300 + 256  # what a plan hands back is let in
    assert empty["refused_a_decision"] == keys["refused_a_decision"] == 0
    assert full["refused_a_decision"] > 0.5
    assert 0 < full["in_flight"] <= 64 <= empty["in_flight"]
    for row in result["cases"]:
        assert row["cpu_us_per_decision"]["min"] > 0
    assert [aim["met"] for aim in result["aims"]] == [True, False, False]
    report.show(result, console)
    assert "decisions/s a core" in console.export_text()
    write(result, report, tmp_path / "ceiling.json")
    assert "| full | decisions/s a core |" in (tmp_path / "ceiling.md").read_text()
    assert json.loads((tmp_path / "ceiling.json").read_text())["stamp"]["settings"]["rounds"] == 1
