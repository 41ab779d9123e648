"""What a start on this machine sets and needs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from apportion.deployments.app import build
from apportion.deployments.cluster import launch
from apportion.deployments.cluster.launch import example, required_cpus, url_of
from apportion.deployments.cluster.nodes import LiveNode
from apportion.deployments.config.reader import read_config
from apportion.deployments.config.service import parse_config
from apportion.router.errors import ConfigurationError
from tests.deployments.service import CONFIG

SHOW = """
import resource
from apportion.deployments.cluster.launch import set_ray_environment
hard = {hard}
if hard: resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 512), hard))
set_ray_environment()
from ray.serve._private import constants
print(constants.RAY_SERVE_HAPROXY_MAXCONN, constants.RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S)
"""


def shown(hard: int) -> list[int]:
    env = {name: value for name, value in os.environ.items() if "HAPROXY" not in name}
    command = [sys.executable, "-c", SHOW.format(hard=hard)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return [int(word) for word in run.stdout.split()]


def test_the_proxy_has_room_for_idle_clients_and_sends_them_away() -> None:
    connections, idle_s = shown(hard=0)
    assert connections > 4096
    assert idle_s <= 60


def test_the_proxy_starts_where_descriptors_are_few() -> None:
    # HAProxy 2.8 asks for 24,396 descriptors with 9,744 connections, and refuses to start where it may not have them.
    assert shown(hard=4096)[0] * 2.5 + 36 < 4096


def test_room_is_made_for_the_replicas_that_a_deploy_starts_beside_the_old_ones() -> None:
    def needed(**rollout: int) -> float:
        args = read_config(CONFIG).document["applications"][0]["args"]
        args["models"][0]["num_replicas"] = 3
        return required_cpus(parse_config(args | {"rollout": rollout}))

    front, engines = 0.2 + 0.4 + 0.2 + 0.2, 4 * 0.2  # ingress, predictor, solver, jobs; four models
    assert needed() == pytest.approx(front + 0.2 + engines + 2 * 0.2)
    assert needed(front_surge_percent=100) - needed() == pytest.approx(front)
    assert needed(engine_surge_percent=34) - needed() == pytest.approx(engines + 0.2), "rounded up for each model"


def test_a_share_that_no_gpu_has_room_for_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    document = read_config(CONFIG).document
    shared = {"gpu_memory_utilization": 0.6, "kv_cache_memory_bytes": 1 << 26}
    document["applications"][0]["args"]["models"][0] |= {"num_gpus": 0.6, "num_replicas": 3, "engine_args": shared}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(launch, "local_ray", contextlib.nullcontext)
    monkeypatch.setattr(launch, "live_nodes", lambda: [LiveNode("n", "10.0.0.1", {}, gpus=2, cpus=64)])
    with (
        pytest.raises(ConfigurationError, match=r"num_gpus 0\.6 finds no room .*: 1\.8 GPUs are asked for .* it has 2"),
        launch.running_service(tmp_path / "serve.yaml", console=Console(quiet=True)),
    ):
        pass


def test_a_deploy_may_start_new_replicas_first() -> None:
    args = read_config(CONFIG).document["applications"][0]["args"]
    assert surges(args | {"rollout": {"front_surge_percent": 50, "engine_surge_percent": 25}}) == {
        "Ingress": 50, "Predictor": 50, "Solver": 50, "Engine-wren": 25, "Router": 0,
    }  # fmt: skip
    assert set(surges(args | {"rollout": {}}).values()) == {0}


def surges(args: dict[str, Any]) -> dict[str, int]:
    """By deployment, as Serve is told; of the engines one."""
    ingress = build(args)._bound_deployment
    _, router, predictor, _ = ingress.init_args
    _, solver, engines, _ = router._bound_deployment.init_args
    parts = [ingress, *(app._bound_deployment for app in (router, predictor, solver, engines["Engine-wren"]))]
    return {part.name: part._deployment_config.max_surge_percent for part in parts}


@pytest.mark.parametrize(
    ("options", "application", "url"),
    [
        (None, {}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 9001}, {"route_prefix": "/"}, "http://127.0.0.1:9001"),
        ({"host": "10.0.0.7"}, {"route_prefix": "/llm"}, "http://10.0.0.7:8000/llm"),
        ({"host": "::", "port": 80}, {"route_prefix": "/a/b"}, "http://[::1]:80/a/b"),
        ({"host": "fd00::7"}, {}, "http://[fd00::7]:8000"),
    ],
)
def test_the_url_that_is_printed_is_where_the_application_answers(
    options: dict[str, Any] | None, application: dict[str, Any], url: str
) -> None:
    document = {"http_options": options, "applications": [application]}
    assert url_of(document) == url
    assert f" {url}/v1/chat/completions " in example(url_of(document))
