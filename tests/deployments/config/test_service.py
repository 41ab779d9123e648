from pathlib import Path
from typing import Any

import pytest
import yaml

from apportion.allocation.serve_file import ServeFile
from apportion.deployments import zoo
from apportion.deployments.config.models import resolve_source
from apportion.deployments.config.reader import check_config, read_config
from apportion.deployments.config.service import ServiceConfig, live_policy, parse_config
from apportion.router.errors import ConfigurationError
from tests.paths import ROOT

MODEL = {
    "name": "small",
    "source": "org/small",
    "input_usd_per_million": 1,
    "output_usd_per_million": 2,
    "max_model_len": 100,
}
SHARED_GPU = {"gpu_memory_utilization": 0.4, "kv_cache_memory_bytes": 1 << 30}


def arguments(**model: Any) -> dict[str, Any]:
    return {"models": [MODEL | model], "predictor": {"artefact": "x"}}


@pytest.mark.parametrize("name", ["serve_config.yaml", "serve_config.gpu.yaml"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    config = read_config(ROOT / name).service
    assert len(config.models) >= 3


def test_prices_of_the_zoo_are_in_proportion_to_size() -> None:
    from safetensors import safe_open

    config = read_config(ROOT / "serve_config.yaml").service
    for model in config.models:
        with safe_open(f"{model.resolved_source}/model.safetensors", framework="np") as weights:
            size = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118 (no mapping)
        assert model.input_usd_per_million == pytest.approx(size / 1e6, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "models.0.colour: unknown field"),
        ({"input_usd_per_million": -1}, "models.0.input_usd_per_million"),
        ({"max_num_seqs": 0}, "models.0.max_num_seqs"),
        ({"name": "auto"}, "give the model another name"),
        ({"engine_args": {"max_model_len": 5}}, "set by fields of the model"),
        ({"num_gpus": 4, "engine_args": {"tensor_parallel_size": 2}}, "needs num_gpus: 2"),
        ({"num_gpus": 1.5}, "whole numbers"),
        ({"num_gpus": 0.4}, "gpu_memory_utilization to at most 0.4"),
        ({"num_gpus": 0.4, "engine_args": {"gpu_memory_utilization": 0.4}}, "kv_cache_memory_bytes"),
        ({"engine": "simulated"}, "give both or neither"),
    ],
)
def test_a_mistake_is_named_with_its_mend(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_config(arguments(**changes))


def test_a_shared_gpu_with_bounds_is_fine() -> None:
    assert parse_config(arguments(num_gpus=0.4, engine_args=SHARED_GPU)).models[0].num_gpus == 0.4


@pytest.mark.parametrize(
    ("routing", "says"),
    [
        ({"strategy": "magic"}, "magic"),
        ({"strategy": "mip", "options": {"gop": 1}}, "gop"),
        ({"strategy": "static", "options": {"model": 1}}, "no model 1; give an index from 0 to 0"),
        ({"budget_usd_per_request": 0}, "routing.budget_usd_per_request"),
    ],
)
def test_a_wrong_policy_is_refused(routing: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_config(arguments() | {"routing": routing})


def test_user_config_leaves_what_it_does_not_say_as_args_have_it() -> None:
    routing = {"strategy": "mip", "options": {"gap": 0.01, "time_limit_s": 0.2}, "budget_usd_per_request": 1e-5}
    config = parse_config(arguments() | {"routing": routing})
    policy = live_policy({"prices": {"small": {"output_usd_per_million": 3}}}, config)
    assert (policy.strategy, policy.options, policy.budget_usd_per_request) == tuple(routing.values())
    assert live_policy({"options": {"gap": 0.1}}, config).options == {"gap": 0.1, "time_limit_s": 0.2}
    assert live_policy({"strategy": "mip", "options": {"gap": 0.1}}, config).options["time_limit_s"] == 0.2
    assert live_policy({"strategy": "greedy"}, config).options == {}, "options go with their strategy"
    assert live_policy({"budget_usd_per_request": None}, config).budget_usd_per_request is None


@pytest.mark.parametrize(
    ("user_config", "says"),
    [
        ({"colour": "red"}, "colour: unknown field"),
        ({"options": "fast"}, "options"),
        ({"strategy": "static", "options": {"model": 1}}, "no model 1"),
        ({"prices": {"huge": {}}}, "huge, which are not served"),
        ({"limits": [{"scope": "service", "window": "day", "usd": 1}]}, "limits need a `budget` section"),
    ],
)
def test_a_wrong_user_config_is_refused(user_config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"Router.user_config: [\s\S]*{says}"):
        live_policy(user_config, parse_config(arguments()))


def test_cached_input_is_no_dearer_than_other_input() -> None:
    one = MODEL | {"cached_input_usd_per_million": 0.0}
    assert parse_config({"models": [one], "predictor": {"artefact": "x"}}).models[0].price.cached_usd_per_million == 0
    with pytest.raises(ConfigurationError, match=r"models\.0: cached_input_usd_per_million is 9"):
        parse_config({"models": [MODEL | {"cached_input_usd_per_million": 9}], "predictor": {"artefact": "x"}})


@pytest.mark.parametrize(
    ("aliases", "says"),
    [({"claude-*": "large"}, "'large' is no model; use one of"), ({"sm*": "auto"}, "hides the model 'small'")],
)
def test_other_names_lead_to_models_and_hide_none(aliases: dict[str, str], says: str) -> None:
    parse_config(arguments() | {"ingress": {"model_aliases": {"claude-*": "auto", "gpt-5": "small"}}})
    with pytest.raises(ConfigurationError, match=says):
        parse_config(arguments() | {"ingress": {"model_aliases": aliases}})


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="more than once"):
        parse_config({"models": [MODEL, MODEL], "predictor": {"artefact": "x"}})


def test_configurations_do_not_change() -> None:
    config = parse_config(arguments())
    assert isinstance(config, ServiceConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.models = ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1: not YAML"),
        ("applications: []", "line 1: applications: must hold exactly one application"),
        (
            "applications: [{import_path: other:app, args: {}}]",
            "line 1: applications.0.import_path: must be apportion.deployments.app:build",
        ),
        (
            "applications: [{import_path: deployments.app:build, args: {}}]",
            "line 1: applications.0.args.models: missing",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_config(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    "changed", [{"num_replicas": 2}, {"num_replicas": "auto"}, {"autoscaling_config": {"max_replicas": 2}}]
)
def test_more_routers_than_one_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    path = tmp_path / "config.yaml"
    deployments = [{"name": "Ingress", "num_replicas": 2}, {"name": "Router", "num_replicas": 1}]
    document["applications"][0]["deployments"] = deployments
    path.write_text(yaml.safe_dump(document))
    read_config(path)
    deployments[1] |= changed
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match="the Router is one replica"):
        read_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--config"):
        read_config(tmp_path / "none.yaml")


def test_an_artefact_for_other_models_is_refused(tmp_path: Path) -> None:
    from apportion.deployments.app import build
    from apportion.router.errors import ArtefactError

    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    args = document["applications"][0]["args"]
    for number, model in enumerate(args["models"]):
        model["name"] = f"ostrich-{number}"
    with pytest.raises(ArtefactError, match="ostrich"):
        build(args)


def test_a_wrong_field_is_named_with_its_line_whether_the_file_is_there_or_only_its_text(tmp_path: Path) -> None:
    text = (ROOT / "serve_config.yaml").read_text().replace("max_num_seqs: 64", "max_seqs: 64", 1)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "max_seqs" in row)
    path = tmp_path / "config.yaml"
    says = rf"config\.yaml, line {line}: applications\.0\.args\.models\.0\.max_seqs: unknown field"
    with pytest.raises(ConfigurationError, match=says):
        check_config(ServeFile.of(path, text))
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        read_config(path)


def test_the_zoo_is_found_in_the_package_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("zoo:wren", "benchmarks/zoo/models/wren"):
        assert Path(resolve_source(source)) == zoo.MODELS / "wren"
    for source in ("zoo:predictor", "benchmarks/zoo/predictor"):
        assert Path(resolve_source(source)) == zoo.PREDICTOR


def test_a_folder_of_the_working_directory_comes_first_and_a_hub_id_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "benchmarks" / "zoo" / "models" / "wren"
    own.mkdir(parents=True)
    assert resolve_source("benchmarks/zoo/models/wren") == str(own)
    assert resolve_source("org/model") == "org/model"


def test_a_name_that_the_zoo_does_not_hold_is_named_with_those_it_holds() -> None:
    with pytest.raises(ConfigurationError, match=r"models\.0\.source: .*'dodo'; choose one of .*zoo:wren"):
        parse_config(arguments(source="zoo:dodo"))


@pytest.mark.parametrize(("routing", "clamps"), [({}, True), ({"long_max_tokens": "refuse"}, False)])
def test_the_policy_says_what_becomes_of_answers_that_are_too_long(routing: dict[str, Any], clamps: bool) -> None:
    config = parse_config(arguments() | {"routing": routing})
    assert [model.clamps for model in config.routing.policy(config.models, ()).models] == [clamps] * len(config.models)
    live = live_policy({"long_max_tokens": "refuse"}, config)
    assert not any(model.clamps for model in live.policy(config.models, ()).models)
