"""One served model: an engine, its own HTTP port, and its place in the router's list.

Serve places, heals and scales the replicas. Requests come straight from an ingress to the port, not through
Serve; so a replica announces itself to the router, and on the way out waits for what it is still answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ray import serve

from apportion.deployments.cluster.autoscaling import USED
from apportion.deployments.cluster.nodes import node_address
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.meter import Meter
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.engine.watch import StallWatch
from apportion.deployments.wire.logs import log_to_serve
from apportion.router.batch.messages import ROUTER, EngineReplica
from apportion.router.torch_companions import hide_misfits

logger = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("child")
HEARTBEAT_S = 1.0
PARTING_HEARTBEAT_S = 0.5  # while it leaves, so that the router can ask for what the last requests have cost
LAST_WORDS_S = 1.5  # an engine that is broken leaves so long after it has told why to whoever waits for it
ANNOUNCE_TIMEOUT_S = 5.0  # a call that is lost must not silence a healthy replica


class EngineBackend(Protocol):
    """What answers behind the port."""

    @property
    def app(self) -> Meter: ...

    @property
    def slots(self) -> int: ...

    @property
    def trouble(self) -> str | None: ...

    def check_health(self) -> None: ...

    async def probe(self) -> None: ...

    def close(self) -> None: ...


async def start_backend(model: ModelConfig) -> EngineBackend:
    if model.engine == "simulated":
        from apportion.deployments.engine.simulated import SimulatedEngine

        return await SimulatedEngine.start(model)
    if model.engine == "external":
        from apportion.deployments.engine.external.backend import ExternalEngine

        return await ExternalEngine.start(model)
    if hide_misfits():
        # vLLM starts its core as a new interpreter, which reads this.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(CHILD), os.environ.get("PYTHONPATH"))))
    from apportion.deployments.engine.vllm_engine import VLLMEngine

    return await VLLMEngine.start(model)


@dataclass(frozen=True)
class EnginePlace:
    """Where an engine answers, and for how long it is waited for.

    `host` is None for the node's own address; `ports` the first and the last that it may listen on; `stall_s` as in
    `TimeoutsConfig`; `longest_request_s` bounds what it finishes before it stops.
    """

    host: str | None
    ports: tuple[int, int]
    stall_s: float | None
    longest_request_s: float


@serve.deployment
class Engine:
    """A replica of one model."""

    async def __init__(self, model: ModelConfig, place: EnginePlace) -> None:  # type: ignore[misc]  # Serve awaits it
        log_to_serve()
        context = serve.get_replica_context()
        self._place = place
        self._backend = await start_backend(model)
        self._meter = self._backend.app
        self._watch = StallWatch(self._meter, self._backend.probe, place.stall_s)
        # Made here and told to the router only, which hands it to ingresses: in no configuration, state or log.
        token = secrets.token_hex(16)
        self._server = EngineServer(self._meter, place.host or node_address(), place.ports, token)
        await self._server.start()
        self._router = serve.get_deployment_handle(ROUTER, app_name=context.app_name)
        self._replica = EngineReplica(
            context.replica_tag, model.name, self._server.url, self._backend.slots, token=token
        )
        self._heartbeat = asyncio.create_task(self._announce_forever())

    def where(self) -> EngineReplica:
        """Where it answers, and the token that it asks for: told over Serve, to who measures it without the router."""
        return self._replica

    def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        self._backend.check_health()
        if self._heartbeat.done():
            raise RuntimeError("the replica no longer announces itself to the router")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaling sees of a replica: the share of its slots that is taken; above 1 engines queue."""
        return {USED: self._meter.used(self._replica.slots)}

    async def _announce_forever(self) -> None:
        while True:
            try:
                self._backend.check_health()
                self._watch.check()
            except Exception:
                # Serve's health check comes some seconds later; ending now halves the outage.
                logger.exception("engine broken; ending the replica")
                await self._give_up()
            self._replica = replace(self._replica, slots=self._backend.slots, trouble=self._backend.trouble)
            await self._announce(replace(self._replica, running=self._meter.running(), peak=self._meter.peak))
            await asyncio.sleep(HEARTBEAT_S)

    async def _announce(self, replica: EngineReplica) -> None:
        """A heartbeat, and then the costs that the router asks for in its answer."""
        # The router may be starting or restarting; the next heartbeat tries again.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(ANNOUNCE_TIMEOUT_S):
                asked = await self._router.announce.remote(replica)
                if costs := self._meter.costs(asked):
                    await self._router.announce.remote(replica, costs)

    async def _give_up(self) -> None:
        """Ends this process, and what vLLM has started with it, which may not be able to end itself any more."""
        leaving = replace(self._replica, draining=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._announce(leaving)
                self._meter.abort()
                while True:
                    await asyncio.sleep(PARTING_HEARTBEAT_S)
                    await self._announce(leaving)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)

    async def __del__(self) -> None:
        self._heartbeat.cancel()
        leaving = replace(self._replica, draining=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._place.longest_request_s):
                await self._announce(leaving)
                while self._server.running:
                    await asyncio.sleep(PARTING_HEARTBEAT_S)
                    await self._announce(leaving)
        await self._server.stop()
        self._backend.close()
