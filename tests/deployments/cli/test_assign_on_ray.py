"""`apportion assign --engine ray` on a small Ray of its own: the same plan as here, and what is there stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from apportion.deployments.cli import app
from apportion.router.outcomes import write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from tests.paths import ROOT

RUNS = """
from apportion.deployments.cluster.launch import set_ray_environment
set_ray_environment()
import json, sys, ray
from typer.testing import CliRunner
from apportion.deployments.cli import app
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    if result.exit_code:
        raise SystemExit(f"{result.output} {result.exception!r}")
ray.shutdown()
"""


@pytest.mark.ray
def test_ray_predicts_what_one_machine_does_and_goes_on_where_it_was(
    tmp_path: Path, alone: None, encoder_folder: Path, outcomes: OutcomesTable
) -> None:
    write_outcomes(outcomes.subset(range(200)), tmp_path / "outcomes")
    (tmp_path / "prompts.txt").write_text("\n".join(outcomes.prompts))
    options = ["--encoder", str(encoder_folder), "--estimator", "knn", "--device", "cpu", "--compare-rows", "0"]
    trained = CliRunner().invoke(
        app, ["train", "--data", str(tmp_path / "outcomes"), "--out", str(tmp_path / "artefact"), *options]
    )
    assert trained.exit_code == 0, trained.output
    asked = ["assign", str(tmp_path / "artefact"), str(tmp_path / "prompts.txt"), "--device", "cpu"]
    here = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "here.csv"), "--budget-usd", "0.01"])
    assert here.exit_code == 0, here.output
    kept = tmp_path / "kept"
    on_ray = [*asked, "--engine", "ray", "--workers", "1", "--predictions", str(kept)]
    runs = [
        [*on_ray, "--out", str(tmp_path / "ray.csv"), "--budget-usd", "0.01"],
        [*on_ray, "--out", str(tmp_path / "again.csv")],
    ]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(runs)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ray.csv"), pd.read_csv(tmp_path / "here.csv"))
    predicted = pd.concat(pd.read_parquet(file, columns=["request"]) for file in (kept / "parts").rglob("*.parquet"))
    assert sorted(predicted["request"]) == list(range(len(outcomes.prompts)))  # the second run predicted none again
    assert len(pd.read_csv(tmp_path / "again.csv")) == len(outcomes.prompts)
