"""The real Router in a process of its own, to be killed; called as an ingress calls it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.wire.channel import Address, Channel
from apportion.router.batch.messages import EngineReplica
from tests.deployments.local_router import make_router


def _serve(config: ServiceConfig, parent: Connection) -> None:
    asyncio.run(_serve_forever(config, parent))


async def _serve_forever(config: ServiceConfig, parent: Connection) -> None:
    router = make_router(config)
    for model in config.models:
        await router.announce(EngineReplica(f"{model.name}-0", model.name, "http://nowhere", model.max_num_seqs))
    parent.send(await router.address())
    await asyncio.Event().wait()


class RouterProcess:
    """Starts, kills and restarts it; `channel` is an ingress's line to it."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._process: Any = None
        self._address: Address | None = None
        self.channel = Channel(self._find, "the router")

    def start(self) -> None:
        """Returns when it listens."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._config, there), daemon=True)
        self._process.start()
        self._address = here.recv()

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    async def _find(self) -> Address:
        if self._address is None:
            raise ConnectionError("it was never started")
        return self._address
