"""What the running service says of its engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.wire.engine_headers import TOKEN_HEADER
from apportion.router.batch.messages import EngineReplica

APPLICATION = "apportion"


@dataclass(frozen=True, slots=True)
class Place:
    """Where chats are sent: a base URL, and the token that an engine asks for."""

    url: str
    token: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {TOKEN_HEADER: self.token}


def with_simulated_engines(config: ServiceConfig, answers: SimulatedConfig, *, slots: int) -> ServiceConfig:
    """The same service, whose engines are simulated and have so many slots each."""
    change = {
        "engine": "simulated",
        "simulated": answers,
        "engine_args": {},
        "num_gpus": 0,
        "max_num_seqs": slots,
    }
    return config.model_copy(update={"models": tuple(model.model_copy(update=change) for model in config.models)})


def engine_places(base: str, models: Sequence[ModelConfig], timeout_s: float) -> dict[str, Place]:
    """A replica of each model, past the router, by model; of the service on this process's Ray.

    Raises:
        TimeoutError: some model has none yet.
    """
    engine_urls(base, timeout_s)
    told = asyncio.run(_asked(models))
    return {model: Place(replica.url, replica.token) for model, replica in told.items()}


async def _asked(models: Sequence[ModelConfig]) -> dict[str, EngineReplica]:
    # Late, for Ray reads its environment when it is imported.
    from ray import serve
    from ray.serve.context import _get_global_client as get_global_client

    from apportion.deployments.app import engine_name

    names = {model.name: engine_name(model, model.groups[0]) for model in models}
    handles = {model: serve.get_deployment_handle(name, app_name=APPLICATION) for model, name in names.items()}
    told = {model: await handle.where.remote() for model, handle in handles.items()}
    # Serve's own shutdown cannot end handles of this process while their router shares its event loop.
    await get_global_client().shutdown_cached_handles_async()
    return told


def engine_urls(base: str, timeout_s: float) -> dict[str, str]:
    """The port of each model's first replica, by model; waits until every model has one.

    Raises:
        TimeoutError: some model has none yet.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(httpx.HTTPError):  # the proxy may be starting
            state = httpx.get(f"{base}/health", timeout=30)
            if state.status_code == 200:
                urls: dict[str, str] = {}
                for replica in state.json()["replicas"].values():
                    urls.setdefault(replica["model"], replica["url"])
                return urls
        time.sleep(0.5)
    raise TimeoutError(f"not every model had an engine within {timeout_s:g} s; {base}/health says which")
