"""Ingress and router as they are, in this process; engines are given, and the predictor is played unless it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from apportion.deployments.config.service import ServiceConfig
from apportion.router.batch.messages import EngineReplica
from tests.deployments.ingress.front import Front, ingress_of
from tests.deployments.local_router import close_router, handle_of, make_router

BEAT_S = 1.0


@contextlib.asynccontextmanager
async def whole_service(
    config: ServiceConfig, replicas: Sequence[EngineReplica], predictor: Any = None
) -> AsyncIterator[Front]:
    """A service whose replicas send heartbeats; its router is `front.router.router`."""
    router = make_router(config)

    async def beat() -> None:
        for replica in replicas:
            await router.announce(replica)

    async def live() -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await beat()

    await beat()
    beating = asyncio.create_task(live())
    try:
        async with ingress_of(config, handle_of(router), predictor) as front:
            yield front
    finally:
        beating.cancel()
        await close_router(router)
