"""Debian's Prometheus, started by a test in a folder of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deployments.conftest import free_port


@dataclass(frozen=True)
class Prometheus:
    """Where it answers."""

    url: str

    def get(self, what: str, **asked: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=asked, timeout=10)
        answer.raise_for_status()
        return answer.json()["data"]

    def query(self, expr: str) -> dict[tuple[str, ...], float]:
        """Values of the moment by their labels' values, but for job and instance."""
        return {
            tuple(
                value for label, value in sorted(one["metric"].items()) if label not in {"__name__", "job", "instance"}
            ): float(one["value"][1])
            for one in self.get("query", query=expr)["result"]
        }

    def firing(self) -> set[str]:
        return {one["labels"]["alertname"] for one in self.get("alerts")["alerts"] if one["state"] == "firing"}


@contextlib.contextmanager
def prometheus(folder: Path, jobs: list[dict[str, Any]], rules: str) -> Iterator[Prometheus]:
    """Scrapes the jobs and evaluates the rules, once a second each; skips the test where it is not installed."""
    if (binary := shutil.which("prometheus")) is None:
        pytest.skip("prometheus is missing; it is Debian's package of that name")
    (folder / "rules.yml").write_text(rules)
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": ["rules.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data", "web.listen-address": address}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([binary, *arguments], cwd=folder, stdout=log, stderr=log)
        try:
            _wait_until_ready(f"http://{address}", process)
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "prometheus does not start"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/-/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError("prometheus is not ready within 30 s")
