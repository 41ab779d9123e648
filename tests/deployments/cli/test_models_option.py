"""A model is described once: the service's configuration and a list of models say the same of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from apportion.allocation.plan import load_plan, save_plan
from apportion.allocation.render import RenderOptions, render
from apportion.allocation.serve_file import ServeFile
from apportion.deployments.cli.models import read_models
from apportion.deployments.cli.workloads import models_counter
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.reader import check_config
from apportion.router.errors import ConfigurationError, InvalidRequestError
from apportion.router.prediction.tokens import TokenCounter
from tests.allocation.plans import plan_of
from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "allocation" / "golden"


def test_a_list_of_models_is_the_configurations_list(tmp_path: Path) -> None:
    for name in ("serve_config.yaml", "serve_config.gpu.yaml"):
        listed: Any = yaml.safe_load((ROOT / name).read_text())["applications"][0]["args"]["models"]
        listed[0] |= {"gpu_types": ["L4"], "min_replicas": 1, "max_replicas": 3, "dtype": "bfloat16"}
        file = tmp_path / "models.yaml"
        file.write_text(yaml.safe_dump({"models": listed}))
        document = yaml.safe_load((ROOT / name).read_text())
        document["applications"][0]["args"]["models"] = listed
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(document))
        found = read_models(None, file, ())
        assert found.specs == read_models(config, None, ()).specs
        assert (found.specs[0].gpu_types, found.specs[0].min_replicas, found.specs[0].max_replicas) == (("L4",), 1, 3)


TEMPLATES = (None, "{% for m in messages %}<|user|>{{ m.content }} and so on and on{% endfor %}")


def test_models_of_one_source_are_counted_each_as_its_engine_counts(tmp_path: Path) -> None:
    listed = [
        {
            "name": f"m{i}",
            "source": "zoo:wren",
            "input_usd_per_million": 1,
            "output_usd_per_million": 1,
            "max_model_len": 256,
            "engine_args": {} if template is None else {"chat_template": template, "dtype": "float32"},
        }
        for i, template in enumerate(TEMPLATES)
    ]
    file = tmp_path / "models.yaml"
    file.write_text(yaml.safe_dump({"models": listed}))
    specs = read_models(None, file, ()).specs
    served = [ModelConfig.model_validate(model) for model in listed]
    chat = [{"role": "user", "content": "What is 1 plus 1?"}]
    expected = TokenCounter.load({one.name: one.tokenizer_source for one in served}, download=False).count(chat)
    assert expected[1] > expected[0]
    save_plan(replace(plan_of(()), models=specs), tmp_path / "plan.json")
    for known in (specs, load_plan(tmp_path / "plan.json").models):
        counter = models_counter(known)
        assert counter is not None
        assert counter.count(chat).tolist() == expected.tolist()
    rendered = tmp_path / "config.yaml"
    rendered.write_text(render(load_plan(tmp_path / "plan.json"), ROOT / "serve_config.yaml", RenderOptions()))
    assert [spec.counting for spec in read_models(rendered, None, ()).specs][-2:] == [spec.counting for spec in specs]


def test_a_model_from_outside_counts_as_another_does(tmp_path: Path) -> None:
    prices = {"input_usd_per_million": 1, "output_usd_per_million": 1}
    known = {"name": "wren", "source": "zoo:wren", **prices}
    external = {"base_url": "https://api.example.com/v1", "model": "vendor-1"}
    bought = {"name": "big", "engine": "external", "external": external, **prices}
    file = tmp_path / "models.yaml"
    chat = [{"role": "user", "content": "What is 1 plus 1?" * 20}]

    def counted(*models: dict[str, Any]) -> list[int]:
        file.write_text(yaml.safe_dump({"models": list(models)}))
        counter = models_counter(read_models(None, file, ()).specs)
        assert counter is not None
        return counter.count(chat).tolist()

    both = counted(bought, known)
    assert both[0] == both[1]
    (alone,) = counted(bought)
    assert alone > 2 * both[0]


def test_what_was_rendered_describes_what_was_planned(tmp_path: Path) -> None:
    plan, config = plan_of(), tmp_path / "config.yaml"
    config.write_text(render(plan, GOLDEN / "before.yaml", RenderOptions()))
    # The arguments of `large` are the file's own; a plan leaves them.
    planned = [replace(spec, arguments={}) for spec in read_models(config, None, plan.cluster.gpu_types).specs]
    assert sorted(planned, key=lambda spec: spec.name) == sorted(plan.models, key=lambda spec: spec.name)
    config.write_text(render(plan_of(()), config, RenderOptions()))
    without = read_models(config, None, plan.cluster.gpu_types).specs
    assert {spec.name: spec.quantisation for spec in without}["middle"] == "fp8", "also without a replica"


def test_a_wrong_type_is_named_where_the_configuration_says_it(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    text = (ROOT / "serve_config.gpu.yaml").read_text()
    config.write_text(text.replace("num_gpus: 0.3\n", "num_gpus: 0.3\n          gpu_types: [L5]\n", 1))
    line = next(number for number, row in enumerate(config.read_text().splitlines(), 1) if "L5" in row)
    says = rf"config\.yaml, line {line}: applications\.0\.args\.models\.0\.gpu_types\.0: 'L5' is neither"
    with pytest.raises(ConfigurationError, match=says):
        read_models(config, None, ("L4",))


@pytest.mark.parametrize("given", [(None, None), (Path("a"), Path("b"))])
def test_models_come_from_exactly_one_file(given: tuple[Path | None, Path | None]) -> None:
    with pytest.raises(InvalidRequestError, match="give exactly one of them"):
        read_models(*given, ())


def test_a_model_is_served_in_the_format_that_it_says() -> None:
    text = (ROOT / "serve_config.gpu.yaml").read_text()
    text = text.replace("engine_args:\n            dtype: bfloat16\n", "dtype: float16\n          engine_args:\n", 1)
    text = text.replace("num_gpus: 0.3\n", "num_gpus: 0.3\n          quantisation: fp8\n", 1)
    model = check_config(ServeFile.of("config.yaml", text)).service.models[0]
    deployed = model.of_group(model.groups[0]).engine_args
    assert (deployed["dtype"], deployed["quantization"]) == ("float16", "fp8")
