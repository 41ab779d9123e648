"""The installed package serves from an empty folder, and leaves the machine as it was."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from apportion.deployments.cluster.run_folder import run_folder
from tests.deployments.service import wait_for
from tests.package.installation import Installed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(420), pytest.mark.usefixtures("alone")]

URL = "http://127.0.0.1:8000"
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "What is 2 plus 3?"}], "temperature": 0}
NODE = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


@pytest.fixture
def hostile(installed: Installed) -> Iterator[None]:
    """Folders of the user that have the names of the project's."""
    folders = [installed.folder / name for name in ("router", "deployments", "allocation", "benchmarks")]
    for folder in folders:
        folder.mkdir()
        (folder / "__init__.py").write_text("raise ImportError('the folder of the user')\n")
    yield
    for folder in folders:
        for file in folder.rglob("*.py"):
            file.unlink()


@contextlib.contextmanager
def serving(installed: Installed, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`apportion serve` without a file; stopped by SIGTERM, as Docker and Kubernetes do it."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["apportion", "serve"], cwd=installed.folder, env=installed.variables, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()


def answer(timeout_s: float, log: Path | None = None) -> httpx.Response:
    """The first answer that is not a failure to reach or to be ready."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError):
            found = httpx.post(f"{URL}/v1/chat/completions", json=CHAT, timeout=30)
            if found.status_code == 200:
                return found
        time.sleep(0.5)
    pytest.fail(f"no answer within {timeout_s:g} s\n{log.read_text() if log else ''}")


def started_in(environment: Path) -> list[psutil.Process]:
    """Processes that run the environment's Python."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word.startswith(str(environment)) for word in process.cmdline()):
                found.append(process)
    return found


def test_an_empty_folder_serves_the_zoo_beside_folders_of_the_same_names(
    installed: Installed, tmp_path: Path, hostile: None
) -> None:
    log = tmp_path / "log"
    with serving(installed, log):
        assert answer(240, log).headers["x-router-model"] in {"wren", "finch", "lark", "heron"}
        # An ingress hears of replicas every few seconds.
        wait_for(lambda: httpx.head(f"{URL}/ready", timeout=30).status_code == 200, 15, "the ingress says so")
        wait_for(lambda: "Ready in" in log.read_text(), 120, "all engines are ready")
    assert "Stopped; no process is left." in log.read_text()
    assert not [process.cmdline() for process in started_in(installed.environment)]
    left = list(installed.temporary.iterdir())
    assert not [entry for entry in left if entry.is_socket() or entry.name == run_folder().name]
    assert not list(installed.home.rglob("auth_token"))


def test_the_documented_steps_work_on_a_cluster_after_a_local_service_was_used(installed: Installed) -> None:
    installed.run("apportion", "init", "--force")
    try:
        started = installed.run("ray", "start", "--head", "--num-cpus", "4", "--disable-usage-stats", **NODE)
        assert started.returncode == 0, started.stderr
        deployed = installed.run("serve", "deploy", "serve_config.yaml")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        assert answer(240).status_code == 200
        assert "RUNNING" in installed.run("serve", "status").stdout
        assert installed.run("serve", "shutdown", "-y").returncode == 0
    finally:
        stopped = installed.run("ray", "stop")
    assert stopped.returncode == 0, stopped.stderr
