from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from apportion.deployments.cli import app
from tests.paths import ROOT


def checked(document: dict, folder: Path) -> tuple[int, str]:
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(document))
    done = CliRunner().invoke(app, ["check", str(file)])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def document() -> dict:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text())


def test_what_is_right_is_said_to_be(document: dict, tmp_path: Path) -> None:
    code, said = checked(document, tmp_path)
    assert (code, "it serves wren, finch, lark, heron" in said) == (0, True)


def test_the_example_of_variants_is_right() -> None:
    done = CliRunner().invoke(app, ["check", str(ROOT / "examples/variants/serve_config.yaml")])
    said = " ".join(done.output.split())
    assert (done.exit_code, "it serves wren, finch, lark, heron, crane@direct, crane@think" in said) == (0, True)


@pytest.mark.parametrize(
    ("user_config", "says"),
    [
        ({"strategi": "mip"}, "strategi: unknown field"),
        ({"strategy": "mipp"}, "mipp"),
        ({"prices": {"hern": {"input_usd_per_million": 1}}}, "hern"),
        ({"limits": [{"scope": "service", "window": "day", "usd": 1}]}, "need a `budget` section"),
        (["strategy"], "user_config: a list; give fields of `routing`"),
        ("mip", "user_config: a str; give fields of `routing`"),
    ],
)
def test_a_wrong_user_config_is_named_with_its_line(
    document: dict, tmp_path: Path, user_config: object, says: str
) -> None:
    document["applications"][0]["deployments"] = [{"name": "Router", "user_config": user_config}]
    code, said = checked(document, tmp_path)
    assert code == 2
    assert says in said
    assert "line" in said


@pytest.mark.parametrize(
    ("user_config", "says"),
    [
        ({"artefact": "/nowhere"}, "it has no artefact.json"),
        ({"artefakt": "zoo:predictor"}, "artefakt: unknown field"),
        ("zoo:predictor", "a str; give the field artefact"),
        ({"artefact": "zoo:predictor"}, "right; it serves"),
    ],
)
def test_an_artefact_that_is_to_take_anothers_place_is_read(
    document: dict, tmp_path: Path, user_config: object, says: str
) -> None:
    document["applications"][0]["deployments"] = [{"name": "Predictor", "user_config": user_config}]
    code, said = checked(document, tmp_path)
    assert (code == 0) is ("right" in says)
    assert says in said


@pytest.mark.parametrize("deployments", ["Router", ["Router"], {"Router": {"num_replicas": 1}}])
def test_deployments_of_another_form_are_named(document: dict, tmp_path: Path, deployments: object) -> None:
    document["applications"][0]["deployments"] = deployments
    code, said = checked(document, tmp_path)
    assert (code, "deployments: must be a list of mappings" in said) == (2, True)


@pytest.mark.parametrize("prefix", ["llm", "/llm/", "//", "", "/{model}", None, 7])
def test_a_prefix_under_which_serve_answers_nobody_is_named(document: dict, tmp_path: Path, prefix: object) -> None:
    document["applications"][0]["route_prefix"] = prefix
    code, said = checked(document, tmp_path)
    assert code == 2
    assert "line" in said
    assert f"route_prefix: {prefix!r} is no prefix" in said


def test_a_keys_file_is_read_too(document: dict, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("- {name: alice}")
    document["applications"][0]["args"]["keys"] = {"file": str(keys)}
    code, said = checked(document, tmp_path)
    assert (code, "sha256: missing" in said) == (2, True)


def test_a_limit_of_a_key_that_is_not_there_is_named(document: dict, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"- {{name: alice, sha256: {'a' * 64}}}")
    args = document["applications"][0]["args"]
    args["keys"] = {"file": str(keys)}
    args["budget"] = {"database": f"sqlite:///{tmp_path}/b.db"}
    limit = {"scope": "key", "window": "day", "usd": 1, "name": "alise"}
    document["applications"][0]["deployments"] = [{"name": "Router", "user_config": {"limits": [limit]}}]
    code, said = checked(document, tmp_path)
    assert (code, "no key 'alise'; the nearest is 'alice'" in said) == (2, True)
    args["budget"]["limits"] = [limit]
    del document["applications"][0]["deployments"]
    assert checked(document, tmp_path)[0] == 2
    limit["name"] = "alice"
    assert checked(document, tmp_path)[0] == 0


@pytest.mark.parametrize(("url", "warned"), [("postgresql://u:hunter2@h/n", True), ("postgresql://u@h/n", False)])
def test_a_password_that_is_written_out_is_warned_of(document: dict, tmp_path: Path, url: str, warned: bool) -> None:
    document["applications"][0]["args"]["budget"] = {"database": url}
    code, said = checked(document, tmp_path)
    assert (code, "budget.database_env" in said) == (0, warned)
    assert "hunter2" not in said


def test_models_that_the_predictor_does_not_know_are_told_and_served(document: dict, tmp_path: Path) -> None:
    models = document["applications"][0]["args"]["models"]
    models.append(models[0] | {"name": "owl"})
    models.append(models[0] | {"name": "rook", "prior_success": 0.6})
    left = models.pop(1)["name"]
    code, said = checked(document, tmp_path)
    assert code == 0
    assert "owl: the predictor does not know it; only requests that name it go there" in said
    assert "rook: the predictor does not know it; it is routed by its prior_success 0.6" in said
    assert f"the predictor knows {left} too, which the configuration does not serve" in said
    models[0]["prior_success"] = 1.5
    assert "prior_success" in checked(document, tmp_path)[1]


def test_what_can_be_seen_of_a_models_folder_is_told(document: dict, tmp_path: Path) -> None:
    new = document["applications"][0]["args"]["models"][0] | {"name": "new", "engine_args": {}}
    document["applications"][0]["args"]["models"].append(new)
    base = tmp_path / "base"
    base.mkdir()
    new["source"] = str(base)
    code, said = checked(document, tmp_path)
    assert (code, "new: it has no chat template, so it answers completions only" in said) == (0, True)
    new["capabilities"] = {"chat": False}  # as meant
    assert "chat template" not in checked(document, tmp_path)[1]
    new["source"] = str(tmp_path / "bas")
    assert "new: there is no folder" in checked(document, tmp_path)[1]
    (base / "model.Q4_K_M.gguf").touch()
    for source in (base, base / "model.Q4_K_M.gguf"):
        new["source"] = str(source)
        code, said = checked(document, tmp_path)
        assert (code, "is in GGUF, which vLLM does not read" in said, "line" in said) == (2, True, True)
    (base / "model.safetensors").touch()
    new["source"] = str(base / "model.safetensors")
    code, said = checked(document, tmp_path)
    assert (code, "is a file; give the folder" in said) == (2, True)
    new["source"] = str(base)
    assert checked(document, tmp_path)[0] == 0
