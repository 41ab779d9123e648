"""One real service for all tests that need one: the project's own configuration, real engines, real HTTP."""

from __future__ import annotations

import contextlib
import os
import random
import socket

import pytest
import yaml
from rich.console import Console

from apportion.deployments.cluster.launch import running_service
from tests.deployments.service import CONFIG, Service

# Below what the system gives to whoever asks for any port (from 32768 on Linux), since the proxy binds its own much
# later, and below those of Serve's replicas, which start at 30000.
PORTS = range(20_000, 30_000)


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port among 100 of {PORTS}")


@pytest.fixture(scope="session")
def service(stage: contextlib.ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Starts it, or takes the one that APPORTION_URL names and that runs the project's configuration."""
    document = yaml.safe_load(CONFIG.read_text())
    if url := os.environ.get("APPORTION_URL"):
        return Service(url, document)
    document["http_options"]["port"] = free_port()
    folder = tmp_path_factory.mktemp("service")
    document["applications"][0]["args"] |= {
        "records": {"uri": str(folder / "records"), "prompts": True, "segment_s": 1, "signals": 1},
        "bulk": {"storage": str(folder / "bulk")},
        "feedback": {"keys": {"correct": {"kind": "boolean", "score": True}}},
    }
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return Service(stage.enter_context(running_service(path, console=Console(quiet=True))), document)
