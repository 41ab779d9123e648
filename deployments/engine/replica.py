"""One served model: an engine, its own HTTP port, and its place in the router's list.

Serve places, heals and scales the replicas. Requests come straight from an ingress to the port, not through
Serve; so a replica announces itself to the router, and on the way out waits for what it is still answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Protocol

import ray
from ray import serve
from starlette.types import ASGIApp

from apportion.deployments.cluster.autoscaling import USED_SLOTS
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.messages import ROUTER, EngineReplica
from apportion.router.torch_companions import hide_misfits

logger = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("child")
HEARTBEAT_S = 1.0
ANNOUNCE_TIMEOUT_S = 5.0  # a call that is lost must not silence a healthy replica


class EngineBackend(Protocol):
    """What answers behind the port."""

    @property
    def app(self) -> ASGIApp: ...

    def check_health(self) -> None: ...

    def close(self) -> None: ...


async def start_backend(model: ModelConfig) -> EngineBackend:
    if model.engine == "simulated":
        from apportion.deployments.engine.simulated import SimulatedEngine

        return await SimulatedEngine.start(model)
    if hide_misfits():
        # vLLM starts its core as a new interpreter, which reads this.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHILD), os.environ.get("PYTHONPATH"))))
    from apportion.deployments.engine.vllm_engine import VLLMEngine

    return await VLLMEngine.start(model)


def node_address() -> str:
    """The address under which Ray knows this node; loopback where Ray was started on it."""
    node_id = ray.get_runtime_context().get_node_id()
    return next(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == node_id)


@serve.deployment
class Engine:
    """A replica of one model."""

    async def __init__(self, model: ModelConfig, host: str | None, longest_request_s: float) -> None:  # type: ignore[misc]  # Serve awaits it
        log_to_serve()
        context = serve.get_replica_context()
        self._longest_request_s = longest_request_s
        self._backend = await start_backend(model)
        self._server = EngineServer(self._backend.app, host or node_address())
        await self._server.start()
        self._router = serve.get_deployment_handle(ROUTER, app_name=context.app_name)
        self._replica = EngineReplica(
            id=context.replica_tag, model=model.name, url=self._server.url, slots=model.max_num_seqs
        )
        self._heartbeat = asyncio.create_task(self._announce_forever())

    def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        self._backend.check_health()
        if self._heartbeat.done():
            raise RuntimeError("the replica no longer announces itself to the router")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaling sees of a replica: the share of its slots that is taken; above 1 engines queue."""
        return {USED_SLOTS: self._server.running / self._replica.slots}

    async def _announce_forever(self) -> None:
        while True:
            try:
                self._backend.check_health()
            except Exception:
                # Serve's health check comes some seconds later; ending now halves the outage.
                logger.exception("engine broken; ending the replica")
                os._exit(1)
            # The router may be starting or restarting; the next heartbeat tries again.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._router.announce.remote(self._replica), ANNOUNCE_TIMEOUT_S)
            await asyncio.sleep(HEARTBEAT_S)

    async def __del__(self) -> None:
        self._heartbeat.cancel()
        leaving = EngineReplica(self._replica.id, self._replica.model, self._replica.url, self._replica.slots, True)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._router.announce.remote(leaving), 2.0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._longest_request_s):
                while self._server.running:  # noqa: ASYNC110 (a poll at the end of a replica's life)
                    await asyncio.sleep(0.02)
        await self._server.stop()
        self._backend.close()
