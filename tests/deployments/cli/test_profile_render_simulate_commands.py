"""`apportion profile`, `render` and `simulate` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.origin import installed_engine
from apportion.allocation.plan import save_plan
from apportion.allocation.replica import load_profiles, save_profiles
from apportion.deployments.cli import app
from apportion.router.outcomes import write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from tests.allocation.architectures import LLAMA31_8B, QWEN25_05B, model_folder
from tests.allocation.plans import PLACES, plan_of
from tests.allocation.test_simulate import LARGE, SMALL, profile
from tests.allocation.test_simulate import plan_of as served_plan
from tests.paths import ROOT

runner = CliRunner()
GOLDEN = ROOT / "tests" / "allocation" / "golden"


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    price = {"input_usd_per_million": 1, "output_usd_per_million": 2, "max_model_len": 4096}
    models = [
        {"name": "tiny", "source": model_folder(tmp_path / "tiny", QWEN25_05B), **price},
        {"name": "llama", "source": model_folder(tmp_path / "llama", LLAMA31_8B), **price},
    ]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    nodes = [{"name": "a", "gpu_type": "L4", "n_gpus": 2}]
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"nodes": nodes}))
    return tmp_path


def profile_command(folder: Path, *options: object, code: int = 0) -> str:
    given = ("--models", folder / "models.yaml", "--cluster", folder / "cluster.yaml")
    return run("profile", *given, "--out", folder / "profiles.json", *options, code=code)


def test_profiles_are_computed_and_kept(inputs: Path) -> None:
    said = profile_command(inputs, "--share", 0.5, "--share", 1)
    assert "5 of 6 replica types fit" in said
    found = {str(entry.replica): entry for entry in load_profiles(inputs / "profiles.json")}
    assert not found["llama on 0.5 of L4"].fits
    assert found["llama on 2 x L4"].tokens_per_s > found["llama on 1 of L4"].tokens_per_s
    profile_command(inputs, "--share", 0.25)
    assert len(load_profiles(inputs / "profiles.json")) == 8


def test_a_measured_profile_stays(inputs: Path) -> None:
    profile_command(inputs, "--share", 1)
    rows = json.loads((inputs / "profiles.json").read_text())
    rows["profiles"][0] |= {"source": "measured", "tokens_per_s": 123.0, "decode_curve": []}
    rows["profiles"][0]["origin"]["engine"] = installed_engine()
    (inputs / "profiles.json").write_text(json.dumps(rows))
    profile_command(inputs, "--share", 1)
    assert 123.0 in [entry.tokens_per_s for entry in load_profiles(inputs / "profiles.json")]


def test_older_profiles_of_a_model_that_changed_are_dropped(inputs: Path) -> None:
    profile_command(inputs, "--share", 1)
    text = (inputs / "models.yaml").read_text()
    (inputs / "models.yaml").write_text(text.replace("max_model_len: 4096", "max_model_len: 2048", 1))
    said = profile_command(inputs, "--share", 0.5)
    assert "model 'tiny' was profiled with max_model_len 4096, now 2048: its older profiles are dropped" in said
    left = [entry.replica for entry in load_profiles(inputs / "profiles.json") if entry.replica.model == "tiny"]
    assert [(replica.gpu_fraction, replica.tensor_parallel) for replica in left] == [(0.5, 1), (1.0, 2)]


def test_another_config_json_in_the_folder_is_another_model(inputs: Path) -> None:
    profile_command(inputs, "--share", 1)
    model_folder(inputs / "tiny", QWEN25_05B, num_hidden_layers=12)
    assert "config_sha256" in profile_command(inputs, "--share", 1)


def test_a_model_that_cannot_be_computed_is_told_apart(inputs: Path) -> None:
    model_folder(inputs / "tiny", QWEN25_05B, model_type="no-such-architecture")
    said = profile_command(inputs, "--share", 1)
    assert "left out:" in said
    assert "models.0.source" in said
    assert {entry.replica.model for entry in load_profiles(inputs / "profiles.json")} == {"llama"}
    assert "--kv-cache-gib: missing" in profile_command(inputs, "--measure", "--on", "L4", code=2)


def test_profile_says_what_is_wrong(inputs: Path) -> None:
    assert "add --measure" in profile_command(inputs, "--on", "L4", code=2)
    assert "one of L4" in profile_command(inputs, "--measure", "--on", "H100", code=2)
    (inputs / "cluster.yaml").write_text("nodes: [{name: a, gpu_type: L5, n_gpus: 2}]")
    assert "cluster.yaml, line 1: nodes.0.gpu_type: 'L5' is unknown" in profile_command(inputs, code=2)
    cpu = {"memory_gib": 4, "bandwidth_gb_per_s": 9, "half_tflops": 1}
    nodes = [{"name": "a", "gpu_type": "cpu", "n_gpus": 2}]
    (inputs / "cluster.yaml").write_text(yaml.safe_dump({"nodes": nodes, "gpu_types": {"cpu": cpu}}))
    assert "--measure --on cpu" in profile_command(inputs, code=2)


def test_a_source_that_cannot_be_read_is_named_with_its_line(inputs: Path) -> None:
    models = yaml.safe_load((inputs / "models.yaml").read_text())
    (inputs / "empty").mkdir()
    models["models"] = models["models"][1:]
    models["models"][0]["source"] = str(inputs / "empty")
    (inputs / "models.yaml").write_text(yaml.safe_dump(models))
    said = profile_command(inputs, code=2)
    line = (inputs / "models.yaml").read_text().splitlines().index(f"  source: {inputs / 'empty'}") + 1
    assert f"models.yaml, line {line}: models.0.source:" in said
    assert "has no config.json" in said


def test_render_writes_what_serve_deploy_takes(tmp_path: Path) -> None:
    save_plan(plan_of(), tmp_path / "plan.json")
    config = tmp_path / "serve_config.yaml"
    config.write_text((GOLDEN / "before.yaml").read_text())
    assert "7 planned replicas are in" in run("render", tmp_path / "plan.json", "--config", config)
    assert config.read_text() == (GOLDEN / "after.yaml").read_text()
    assert "nothing changed" in run("render", tmp_path / "plan.json", "--config", config)
    other = tmp_path / "other.yaml"
    run("render", tmp_path / "plan.json", "--config", GOLDEN / "before.yaml", "--out", other, "--no-pin")
    assert "node:" not in other.read_text()


def test_render_writes_nothing_that_the_service_would_refuse(tmp_path: Path) -> None:
    save_plan(plan_of(), tmp_path / "plan.json")
    config = tmp_path / "serve_config.yaml"
    config.write_text((GOLDEN / "before.yaml").read_text().replace("strategy: mip", "strategy: magic"))
    before = config.read_text()
    said = run("render", tmp_path / "plan.json", "--config", config, code=2)
    assert "would be wrong, so it was not written" in said
    assert "magic" in said
    assert config.read_text() == before
    assert "none.yaml" in run("render", tmp_path / "plan.json", "--config", tmp_path / "none.yaml", code=2)
    assert "plan again" in run("render", config, code=2)


def test_render_leaves_the_predictor_its_share(tmp_path: Path) -> None:
    # GPU 4 has 0.2 to spare, the others nothing.
    full = tuple(place for place in PLACES if place[1] == "a-1")
    save_plan(plan_of(full, cluster=Cluster((Node("a-1", "H100", 5),), GPU_TYPES)), tmp_path / "plan.json")
    config, rendered = tmp_path / "serve_config.yaml", tmp_path / "out.yaml"
    before = (GOLDEN / "before.yaml").read_text()
    said = {}
    for share, code in ((0.2, 0), (0.25, 2)):
        config.write_text(before.replace("artefact: /models", f"num_gpus: {share}\n        artefact: /models"))
        said[share] = run("render", tmp_path / "plan.json", "--config", config, "--out", rendered, code=code)
    assert "3 planned replicas are in" in said[0.2]
    assert "plan with --reserve-gpu 0.25, name the replicas' GPUs (render --pin), or predict on the CPU" in said[0.25]


@pytest.fixture
def served(tmp_path: Path, outcomes: OutcomesTable) -> Path:
    plan = served_plan(profile(SMALL, 4, ((1, 100.0), (4, 400.0))), profile(LARGE, 8, ((1, 200.0), (8, 800.0))))
    save_plan(plan, tmp_path / "plan.json")
    write_outcomes(outcomes, tmp_path / "outcomes")
    save_profiles(plan.profiles, tmp_path / "profiles.yaml")
    return tmp_path


def simulate_command(folder: Path, *options: object) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        run("simulate", folder / "plan.json", "--outcomes", folder / "outcomes", *options, "--json", "-")
    )
    return result


def test_simulate_reports_each_load(served: Path) -> None:
    result = simulate_command(served, "--requests", 500, "--deadline-s", 2)
    assert [row["load"] for row in result["loads"]] == [1.0, 1.2, 1.5]
    for row in result["loads"]:
        assert row["requests"] == 500 == sum(part["requests"] for part in row["models"].values())
        assert row["latency_s_p50"] <= row["latency_s_p95"] <= row["latency_s_p99"]
        assert row["goodput_per_s"] == pytest.approx(row["within_deadline"] * row["requests_per_s"])
    assert [row["refused"] for row in result["loads"]] == [0, 0, 0]
    hasty = simulate_command(served, "--requests", 500, "--load", 60, "--patience-s", 0.2)["loads"][0]
    assert 0.2 < hasty["refused"] < 1
    assert result["loads"][0]["busy_mean"] < result["loads"][2]["busy_mean"]


def test_simulate_shows_a_table(served: Path) -> None:
    said = run("simulate", served / "plan.json", "--outcomes", served / "outcomes", "--load", 0.5, "--requests", 100)
    assert "what the plan would do" in said
    assert "small at 0.5" in said


def test_simulate_says_what_is_wrong(served: Path) -> None:
    assert "--prompts with --predictor" in run("simulate", served / "plan.json", code=2)
    assert "above 0" in run("simulate", served / "plan.json", "--outcomes", served / "outcomes", "--load", 0, code=2)
