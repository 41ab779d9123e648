import json
from pathlib import Path

import pytest

from benchmarks.load.report import write
from benchmarks.signals import report
from benchmarks.signals.run import AT_ONCE, told_of
from benchmarks.stamp import stamp


def test_ratios_are_paired_by_round_and_the_page_tells_them(tmp_path: Path) -> None:
    one = told_of({"plain": [100.0, 200.0, 50.0], "signals": [90.0, 190.0, 50.0], "json": [50.0, 150.0, 40.0]})
    assert one["over_plain"]["signals"] == pytest.approx({"median": 0.95, "min": 0.9, "max": 1.0})
    result = {
        "stamp": stamp(model="heron", rounds=3, seconds=2.0, tokens=32, seed=0),
        "at_once": {str(at_once): one for at_once in AT_ONCE},
    }
    write(result, report, tmp_path / "signals.json")
    page = (tmp_path / "signals.md").read_text()
    assert list(json.loads((tmp_path / "signals.json").read_text())["at_once"]) == ["1", "16", "64"]
    assert "| 16 | 100 | 0.95 | 0.90 to 1.00 | 0.75 | 0.50 to 0.80 |" in page
    assert "heron, 3 rounds of about 2 s each way." in page
