"""Changes the running service's policy as an operator does: the same file, another `user_config`, deployed again."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from apportion.deployments.cluster.launch import deploy


def read_document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def set_policy(document: dict[str, Any], url: str, routing: dict[str, Any], *, timeout_s: float = 120) -> None:
    """Deploys the file with these fields of `routing` and waits until the router plans by them."""
    changed = copy.deepcopy(document)
    application = changed["applications"][0]
    own = dict(application["args"].get("routing") or {})
    application["deployments"] = [{"name": "Router", "user_config": own | routing}]
    deploy(changed)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        state = httpx.get(f"{url}/health", timeout=10).json()
        if all(state.get(name) == value for name, value in routing.items()):
            return
        time.sleep(0.2)
    raise TimeoutError(f"the router did not take the policy {routing} within {timeout_s:g} s")
