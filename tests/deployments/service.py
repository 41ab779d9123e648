"""The running service as tests see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.paths import ROOT

CONFIG = ROOT / "serve_config.yaml"
MODELS = ("wren", "finch", "lark", "heron")


@dataclass(frozen=True)
class Service:
    """Where it answers, and the file that it runs."""

    url: str
    document: dict[str, Any]

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)

    def chat(self, content: Any = "What is 2 plus 3?", **fields: Any) -> httpx.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": content}], "temperature": 0} | fields
        return self.post("/v1/chat/completions", body)

    def health(self) -> dict[str, Any]:
        return health(self.url, timeout_s=30)

    def replicas(self) -> dict[str, Any]:
        """Of all models by name, as the router knows them; empty when it does not say."""
        found: dict[str, Any] = self.health().get("replicas", {})
        return found

    def slots(self, model: str) -> int:
        """Of its replicas that may be used."""
        return int(self.health().get("models", {}).get(model, {}).get("slots", 0))

    def engine_url(self, model: str) -> str:
        return next(str(replica["url"]) for replica in self.replicas().values() if replica["model"] == model)


def health(url: str, timeout_s: float, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """What /health says; without numbers when the router does not answer, empty when no ingress does."""
    try:
        state: dict[str, Any] = httpx.get(f"{url}/health", headers=headers, timeout=timeout_s).json()
    except (httpx.HTTPError, ValueError):
        return {}
    return state


def holds_nothing(state: dict[str, Any]) -> bool:
    """Whether no request is waiting or running, and no slot and no dollar is kept for one; False if nobody says."""
    return bool(
        "models" in state
        and (state["in_flight"], state["waiting"]) == (0, 0)
        and abs(state["reserved_usd"]) < 1e-15
        and all(model["free_slots"] == model["slots"] for model in state["models"].values())
    )


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)
