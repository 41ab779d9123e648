import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.report import write
from benchmarks.signals import report
from benchmarks.signals.run import AT_ONCE, median_interval, told_of
from benchmarks.stamp import stamp


def test_ratios_are_paired_by_round_and_the_page_tells_them(tmp_path: Path) -> None:
    plain = np.array([[1.0, 0.5], [2.0, 0.5], [4.0, 0.5]])
    one = told_of({"plain": plain, "signals": plain * [1.25, 1.1], "json": plain * [2, 1.5]}, seed=0)
    assert one["over_plain"]["signals"][0] == pytest.approx({"median": 1.25, "low": 1.25, "high": 1.25})
    result = {
        "stamp": stamp(model="heron", rounds=3, seconds=2.0, tokens=32, seed=0),
        "load_average": 2.5,
        "at_once": {str(at_once): one for at_once in AT_ONCE},
    }
    write(result, report, tmp_path / "signals.json")
    page = (tmp_path / "signals.md").read_text()
    assert list(json.loads((tmp_path / "signals.json").read_text())["at_once"]) == ["1", "16", "64"]
    assert "| 16 | plain | 2.000 |  |  | 0.500 |  |  |" in page
    assert "| 16 | signals | 2.500 | 1.25 | 1.25 to 1.25 | 0.550 | 1.10 | 1.10 to 1.10 |" in page
    assert "heron, 3 rounds of about 2 s each way; load average at the end 2.5." in page


def test_a_median_has_an_interval_that_holds_it_and_narrows_with_rounds() -> None:
    drawn = np.random.default_rng(1).normal(1.1, 0.1, 400)
    few, many = median_interval(drawn[:20], 0), median_interval(drawn, 0)
    assert few["low"] < few["median"] < few["high"]
    assert many["low"] < 1.1 < many["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
