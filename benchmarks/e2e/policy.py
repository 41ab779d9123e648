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


def set_budget(document: dict[str, Any], url: str, budget_usd: float | None, *, timeout_s: float = 120) -> None:
    """Deploys the file with this budget a request and waits until the router plans by it."""
    changed = copy.deepcopy(document)
    application = changed["applications"][0]
    routing = dict(application["args"].get("routing") or {}) | {"budget_usd_per_request": budget_usd}
    application["deployments"] = [{"name": "Router", "user_config": routing}]
    deploy(changed)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        state = httpx.get(f"{url}/health", timeout=10).json()
        if state.get("budget_usd_per_request") == budget_usd:
            return
        time.sleep(0.2)
    raise TimeoutError(f"the router did not take the budget {budget_usd} within {timeout_s:g} s")
