"""examples/cluster: from a list of models to a folder for Kubernetes, by the commands of its page."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from apportion.deployments.cli import app
from tests.allocation.architectures import QWEN25_7B, QWEN25_15B, model_folder
from tests.paths import ROOT

EXAMPLE = ROOT / "examples" / "cluster"
SOURCES = {"Qwen/Qwen2.5-1.5B-Instruct": QWEN25_15B, "Qwen/Qwen2.5-7B-Instruct": QWEN25_7B}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, with the models' configurations lying here in place of the hub's."""
    folder = tmp_path / "cluster"
    shutil.copytree(EXAMPLE, folder)
    models = (folder / "models.yaml").read_text()
    for number, (source, config) in enumerate(SOURCES.items()):
        assert source in models
        models = models.replace(source, model_folder(tmp_path / "hub" / str(number), config))
    (folder / "models.yaml").write_text(models)
    values = (folder / "values.yaml").read_text()
    (folder / "values.yaml").write_text(f"{values}image_folders: [{tmp_path / 'hub'}]\n")
    monkeypatch.chdir(folder)
    return folder


def test_four_commands_go_from_models_to_a_folder(example: Path) -> None:
    (block,) = re.findall(r"```\n(.*?)```", (EXAMPLE / "README.md").read_text(), flags=re.S)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 4
    for program, *arguments in commands:
        assert program == "apportion"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    service = yaml.safe_load((example / "k8s" / "rayservice.yaml").read_text())
    groups = {group["groupName"]: group for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    assert len(groups) > 1
    told = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]
    assert sum(group["num_replicas"] for model in told["models"] for group in model["replica_groups"]) > 0
    assert (example / "serve_config.yaml").read_text() == (EXAMPLE / "serve_config.yaml").read_text()
