import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.goodput import report, run
from benchmarks.goodput.engines import SPEEDS, Engines, capacity_per_s
from benchmarks.goodput.play import NAMES, Load, play
from benchmarks.load.report import write


@pytest.mark.parametrize("running", [1, 8, 32])
def test_a_full_engine_takes_as_long_as_its_speed_says(running: int) -> None:
    engines, speed = Engines(), SPEEDS["lark"]
    for number in range(running):
        engines.start(str(number), NAMES.index("lark"), 100.0, 50.0)
    steps = 0
    while engines.names:
        engines.pass_time(0.01)
        steps += 1
    assert 0.01 * steps == pytest.approx(speed.answer_s(100.0, 50.0, running), abs=0.02)


def test_what_one_engine_runs_is_nothing_to_another() -> None:
    engines = Engines()
    for name in ("wren", *["heron"] * 32):
        engines.start(name, NAMES.index(name), 10.0, 100.0)
    taken_s = 0.0
    while "wren" in engines.names:
        engines.pass_time(0.01)
        taken_s += 0.01
    assert taken_s == pytest.approx(SPEEDS["wren"].answer_s(10.0, 100.0, 1), abs=0.02)
    assert engines.names == ["heron"] * 32


def test_every_request_of_a_load_ends_once_and_speeds_are_learned() -> None:
    load = Load.draw(0.5 * capacity_per_s(140.0, 275.0), 12.0, 3)
    plain, timed = play(load), play(load, max_seconds=8.0)
    count = len(load.arrivals_s) - int(0.2 * len(load.arrivals_s))
    assert len(plain.seconds) == len(timed.seconds) == count
    assert plain.refused == timed.refused == 0
    assert min(plain.seconds) > 0
    late_plain, late_timed = (np.mean(np.array(one.seconds) > 8.0) for one in (plain, timed))
    assert late_timed < late_plain
    assert play(load).seconds == plain.seconds, "nothing is left to chance"


def test_a_small_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "LOADS", (0.4,))
    arms = ("max_seconds", "half the money, weight 0.03")
    monkeypatch.setattr(run, "ARMS", {arm: run.ARMS[arm] for arm in (run.PLAIN, run.SPARING, *arms)})
    console = Console(width=250, record=True)
    result = run.run(seconds=5.0, seeds=2, console=console)
    assert len(result["records"]) == 2 * 4
    assert all(0 <= one["right_in_time"] <= min(one["in_time"], one["success"]) for one in result["records"])
    assert all(sum(one["mix"].values()) + one["refused"] == one["requests"] for one in result["records"])
    report.show(result, console)
    write(result, report, tmp_path / "goodput.json")
    assert "- max_seconds, beside by success: at 40% in time" in (tmp_path / "goodput.md").read_text()
    assert json.loads((tmp_path / "goodput.json").read_text())["records"][0]["arm"] == run.PLAIN
