"""The examples' configurations are right, and fit each other."""

from __future__ import annotations

import runpy

import pytest

from apportion.deployments.config.reader import read_config
from tests.paths import ROOT

MIXED = ROOT / "examples" / "mixed"


@pytest.mark.parametrize("name", ["provider.yaml", "serve_config.yaml"])
def test_a_configuration_is_right(name: str) -> None:
    assert read_config(MIXED / name).service.names


def test_the_mixed_service_buys_what_its_provider_sells() -> None:
    provider, buyer = read_config(MIXED / "provider.yaml"), read_config(MIXED / "serve_config.yaml")
    (bought,) = [model for model in buyer.service.models if model.external is not None]
    assert bought.external is not None
    (sold,) = [model for model in provider.service.models if model.name == bought.external.model]
    assert bought.price == sold.price
    prefix = provider.document["applications"][0]["route_prefix"]
    port = provider.document["http_options"]["port"]
    assert bought.external.base_url == f"http://127.0.0.1:{port}{prefix}/v1"
    run = runpy.run_path(str(MIXED / "run.py"), run_name="imported")
    document, num_cpus = run["together"]()
    assert [one["name"] for one in document["applications"]] == ["provider", "apportion"]
    assert num_cpus < 4
