from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from apportion.deployments.config.service import parse_config
from benchmarks.e2e.policy import read_document
from benchmarks.load.chat import Answer
from benchmarks.load.report import write
from benchmarks.stamp import stamp
from benchmarks.throughput import in_time_report, report
from benchmarks.throughput.in_time import BOUND, FREE, PLAIN, SLOTS, few_slots
from benchmarks.throughput.window import FEWEST_TOKENS, MOST_TOKENS, Load, Window, _right, calibration
from benchmarks.zoo.tasks import generate
from benchmarks.zoo.tokenizer import END

EXAMPLES = generate("test", 64, seed=0)
LOAD = Load.draw(EXAMPLES, 50.0, 0.2, seed=3)


def window(seconds: list[float], right: list[bool], predicted: float = np.nan) -> Window:
    count = len(seconds)
    taken = np.array(seconds)
    return Window(
        replace(LOAD, arrivals_s=np.linspace(0, 2, count).tolist()),
        taken,
        np.array(right),
        np.full(count, 2e-5),
        taken,
        predicted * taken,
        {"wren": count},
        ["500"] * int(np.isinf(taken).sum()),
        0.1,
        1.0,
    )


def test_a_load_is_the_same_for_every_arm_and_of_its_rate() -> None:
    one, same, other = (Load.draw(EXAMPLES, 20.0, 50.0, seed) for seed in (1, 1, 2))
    assert (one.tokens == same.tokens).all()
    assert (one.arrivals_s, one.examples) == (same.arrivals_s, same.examples)
    assert one.arrivals_s != other.arrivals_s
    assert one.rate_per_s == pytest.approx(20.0, rel=0.15)
    assert FEWEST_TOKENS <= one.tokens.min() < 30 < 140 < one.tokens.max() <= MOST_TOKENS


def test_only_the_arm_that_is_bound_says_a_time_and_all_ask_for_the_same_answer() -> None:
    plain, bound = LOAD.body(0, None), LOAD.body(0, 1.5)
    assert plain.pop("routing") == {}
    assert bound.pop("routing") == {"max_seconds": 1.5}
    assert plain == bound
    assert (plain["max_tokens"], plain["ignore_eos"]) == (LOAD.tokens[0], True)


def test_what_follows_the_end_of_text_is_not_graded() -> None:
    example = EXAMPLES[0]
    assert _right(Answer(text=f"{example.answer}{END}and more{END}"), example)
    assert not _right(Answer(text=f"and more{END}{example.answer}"), example)
    assert not _right(Answer(text=example.answer, error="500"), example)


def test_a_window_is_measured_over_http(engine: str) -> None:
    found = Window.measure(engine, LOAD, 2.0)
    numbers = found.numbers(target_s=60.0)
    assert (numbers["requests"], numbers["errors"], numbers["in_time"]) == (len(LOAD.tokens), 0, 1.0)
    assert numbers["mix"] == {"simulated": len(LOAD.tokens)}
    assert numbers["usd_per_1000"] > 0
    assert found.numbers(target_s=1e-6)["in_time"] == 0
    assert calibration([found]) == {
        "requests": 0,
        "unknown": len(LOAD.tokens),
        "p10": None,
        "p50": None,
        "p90": None,
        "rank_correlation": None,
    }


def test_a_request_that_failed_is_neither_in_time_nor_right() -> None:
    numbers = window([0.5, 1.0, 3.0, np.inf], [True, False, True, False]).numbers(target_s=1.0)
    assert (numbers["in_time"], numbers["right"], numbers["right_in_time"]) == (0.5, 0.5, 0.25)
    assert (numbers["goodput_per_s"], numbers["right_in_time_per_s"]) == (1.0, 0.5)  # of 2 requests a second
    assert (numbers["errors"], numbers["p50_s"], numbers["usd_per_1000"]) == (1, 1.0, pytest.approx(0.02))


def test_predicted_seconds_are_compared_with_those_taken() -> None:
    found = calibration(
        [window([1.0, 2.0], [True] * 2, 0.5), window([3.0, 4.0], [True] * 2, 0.9), window([1.0], [True])]
    )
    assert (found["requests"], found["unknown"]) == (4, 1)
    assert (found["p10"], found["p50"], found["p90"]) == (0.5, pytest.approx(0.7), pytest.approx(0.9))
    assert found["rank_correlation"] == 1.0


def test_engines_get_few_slots_and_the_file_stays_valid() -> None:
    document = few_slots(read_document(Path("serve_config.yaml")))
    config = parse_config(document["applications"][0]["args"])
    assert {model.max_num_seqs for model in config.models} == {SLOTS}


def test_an_arm_is_compared_at_what_it_spends_and_the_page_follows_from_the_result(tmp_path: Path) -> None:
    record = window([0.5, 1.5], [True, True]).numbers(target_s=1.0)
    told = {FREE: (2.0, 0.6), PLAIN: (1.0, 0.4), BOUND: (1.5, 0.7)}
    records = [
        {"load": 0.5, "arm": arm, "seed": seed, **record, "usd_per_1000": usd, "right_in_time": share + seed / 10}
        for seed in range(3)
        for arm, (usd, share) in told.items()
    ]
    gain = in_time_report.at_equal_spend(records, "right_in_time", BOUND, 0.5)
    assert (gain.mean, gain.half_width) == (pytest.approx(0.2), pytest.approx(0.0, abs=1e-9))
    part = {
        "stamp": stamp(rounds=3, window_s=1.0, slots=SLOTS, cap_share=0.6, target_percentile=75),
        "capacity_per_s": 20.0,
        "cap_usd_per_request": 2e-5,
        "targets_s": {"0.5": 1.0},
        "records": records,
        "calibration": [{"load": 0.5, "arm": PLAIN, **calibration([window([1.0, 2.0], [True] * 2, 0.5)])}],
    }
    result = {"stamp": part["stamp"], "in_time": part}
    write(result, report, tmp_path / "throughput.json")
    page = (tmp_path / "throughput.md").read_text()
    assert "#### At 50% of capacity (10.0 requests/s), within 1.00 s" in page
    assert "| +30.0 ± 0.0 | +20.0 ± 0.0 |" in page
    assert f"- {BOUND}, beside {PLAIN}: at 50% in time no difference shown, right in time better" in page
    assert "### Targets" not in page, "loads that were not measured are not told"
    report.show(json.loads((tmp_path / "throughput.json").read_text()), Console(width=300, quiet=True))
