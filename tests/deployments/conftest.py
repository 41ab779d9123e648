"""A real service for a module of tests: the project's own configuration, real engines, real HTTP."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import yaml
from rich.console import Console

from deployments.launch import running_service, set_ray_environment
from tests.deployments.service import CONFIG, Service

set_ray_environment()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Starts it, or takes the one that APPORTION_URL names and that runs the project's configuration."""
    document = yaml.safe_load(CONFIG.read_text())
    if url := os.environ.get("APPORTION_URL"):
        yield Service(url, document)
        return
    document["http_options"]["port"] = free_port()
    path = tmp_path_factory.mktemp("service") / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    with running_service(path, console=Console(quiet=True)) as url:
        yield Service(url, document)
