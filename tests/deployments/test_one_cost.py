"""Serving, `assign`, `plan` and `simulate` expect the same costs of the same requests."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from apportion.allocation.models import load_models
from apportion.deployments.cli import app
from apportion.deployments.cli.workloads import read_workload
from apportion.deployments.config.reader import read_config
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.control.predictor import Predictor
from apportion.deployments.ingress.openai import parse_object
from apportion.deployments.ingress.rules import Rules
from apportion.router.estimates import Estimates
from tests.paths import ROOT

PROMPT = "What is 348 plus 87?"
CHAT = [{"role": "user", "content": PROMPT}]
BODIES: list[dict[str, Any]] = [
    {"messages": CHAT},
    {"messages": CHAT, "max_tokens": 1},
    {"messages": CHAT, "max_tokens": 200, "max_completion_tokens": 3, "n": 4},
    {"messages": [{"role": "user", "content": "12 plus 7, then " * 14}]},  # fills most of the smaller contexts
    {"messages": [{"role": "user", "content": "12 plus 7, then " * 200}], "n": 2},  # fits none
    {"prompt": PROMPT, "max_tokens": 2, "n": 3},
]


@pytest.fixture(scope="module")
def config() -> ServiceConfig:
    """The zoo, with a context of its own for each model."""
    config = read_config(ROOT / "serve_config.yaml").service
    models = [
        model.model_copy(update={"max_model_len": 180 + 25 * number}) for number, model in enumerate(config.models)
    ]
    return config.model_copy(update={"models": type(config.models)(models)})


@pytest.fixture(scope="module")
def served(config: ServiceConfig) -> Estimates:
    prompts = [
        parse_object("chat" if "messages" in body else "completion", body, {}, Rules(tuple(config.names))).prompt
        for body in BODIES
    ]
    forecast = asyncio.run(Predictor.func_or_class(config).predict(prompts, config.names))
    return forecast.priced([model.price for model in config.models])


@pytest.fixture(scope="module")
def files(config: ServiceConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models.yaml and requests.jsonl, which say what the service is configured with and asked."""
    folder = tmp_path_factory.mktemp("one-cost")
    fields = ("name", "source", "input_usd_per_million", "output_usd_per_million", "max_model_len")
    models = [{field: getattr(model, field) for field in fields} for model in config.models]
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, BODIES)))
    return folder


def test_limits_answers_and_contexts_all_bind_here(config: ServiceConfig, served: Estimates) -> None:
    free, short, several = served.cost_usd[:3]
    assert not served.errors
    assert (short < free).all()
    assert (several > short).all()
    context = np.array([model.max_model_len for model in config.models])
    room = context - served.input_tokens
    assert ((room[3] > 0) & (room[3] < 60)).any()
    assert (room[4] < 0).all()


def test_the_workload_of_plan_and_simulate_costs_what_serving_expects(
    config: ServiceConfig, served: Estimates, files: Path
) -> None:
    specs = load_models(files / "models.yaml").specs
    artefact = Path(config.predictor.artefact_path)
    work = read_workload(specs, files / "requests.jsonl", None, artefact, 1.0, config.predictor.encoder_source, "cpu")
    for name in ("success", "cost_usd", "cost_std_usd", "input_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(work.estimates, name), getattr(served, name))
    assert work.answers.tolist() == [body.get("n", 1) for body in BODIES]


def test_assign_writes_the_costs_that_serving_expects(config: ServiceConfig, served: Estimates, files: Path) -> None:
    for column, model in enumerate(config.names):
        options = ("--strategy", "static", "--option", f"model={model}", "--models", str(files / "models.yaml"))
        given = ("assign", config.predictor.artefact_path, str(files / "requests.jsonl"), *options)
        out = ("--out", str(files / "plan.csv"), "--device", "cpu", "--json", "-")
        result = CliRunner().invoke(app, [*map(str, given), *out])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["input_tokens_counted_by"] == "models"
        with (files / "plan.csv").open(encoding="utf-8", newline="") as written:
            cost_usd = [float(row["cost_usd"]) for row in csv.DictReader(written)]
        np.testing.assert_array_equal(cost_usd, served.cost_usd[:, column])
