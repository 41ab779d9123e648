import json
from pathlib import Path

from rich.console import Console

from benchmarks.load.report import write
from benchmarks.room import report, run
from benchmarks.room.cases import Aim, Case

CASES = (
    Case("idle", 4, slots=64),
    Case("deep", 4, slots=16, waiting=200),
    Case("capped", 4, slots=64, waiting=100, capped=True),
    Case("keys", 4, slots=64, keys=20),
)
AIMS = (Aim("deep", "idle", 1e9), Aim("keys", "idle", 1e-9), Aim("capped", "idle"))


def test_every_case_is_measured_in_its_state(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "CASES", CASES)
    monkeypatch.setattr(run, "AIMS", AIMS)
    console = Console(width=160, record=True)
    result = run.run(requests=16, rounds=2, seed=0, console=console)
    idle, deep, capped, keys = result["cases"]
    assert (idle["waiting"], keys["waiting"]) == (0, 0)
    assert (idle["decided_a_step"], keys["decided_a_step"]) == (4, 4)
    assert deep["waiting"] >= 190
    assert deep["decided_a_step"] > 2
    assert capped["waiting"] >= 90
    for row in result["cases"]:
        assert 0 < row["cpu_us_per_request"]["min"] <= row["cpu_us_per_request"]["median"]
    assert [row["met"] for row in result["ratios"]] == [True, False, True]
    report.show(result, console)
    assert "deep" in console.export_text()
    write(result, report, tmp_path / "room.json")
    assert "| keys | idle |" in (tmp_path / "room.md").read_text()
    assert json.loads((tmp_path / "room.json").read_text())["stamp"]["settings"]["rounds"] == 2
