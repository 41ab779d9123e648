import json
from pathlib import Path

from apportion.deployments.config.reader import read_config
from benchmarks.lanes import report
from benchmarks.lanes.run import SLOTS, simulated
from benchmarks.load.chat import Answer
from benchmarks.load.numbers import Target, medians, ratio_range, summary
from benchmarks.load.report import write
from benchmarks.stamp import stamp
from tests.paths import ROOT


def load(first_token_s: float, rows_per_s: float) -> dict:
    answers = [Answer(latency_s=3.0, first_token_s=first_token_s, gaps_s=[0.06] * 4, model="wren", status=200)] * 8
    return medians([summary(answers, 10.0, Target(1.0, 60.0)) | {"rows_per_s": rows_per_s}])


def test_engines_are_simulated_and_files_lie_apart(tmp_path: Path) -> None:
    config = simulated(read_config(ROOT / "serve_config.yaml").service, tmp_path, 48, 0.1, 0.06)
    assert {(model.engine, model.max_num_seqs) for model in config.models} == {("simulated", SLOTS)}
    assert config.bulk is not None
    assert config.bulk.place == str(tmp_path)


def test_the_page_follows_from_the_result(tmp_path: Path) -> None:
    result = {
        "stamp": stamp(engines="simulated"),
        "loads": {"without a job": load(0.1, 0.0), "with a job": load(0.12, 7.5)},
        "p95_ratios": {"first_token_ms": ratio_range([1.2]), "between_tokens_ms": ratio_range([1.0])},
        "targets": [
            {"target": "p95 with a job over without, first token", "at_most": 1.1, "measured": 1.2, "met": False},
            {"target": "p95 with a job over without, between tokens", "at_most": 1.1, "measured": 1.0, "met": True},
        ],
        "alone": {"rows": 500, "completed": 500, "status": "completed", "seconds": 9.0, "running_s": 5},
    }
    write(result, report, tmp_path / "lanes.json")
    page = (tmp_path / "lanes.md").read_text()
    assert json.loads((tmp_path / "lanes.json").read_text())["alone"]["rows"] == 500
    assert "| p95 with a job over without, first token | 1.10 | 1.20 | 1.20 to 1.20 | **no** |" in page
    assert "| with a job | 8 | 0 | 120 / 120 / 120 | 60 / 60 / 60 | 3000 | 7.5 |" in page
    assert "100 rows/s" in page
