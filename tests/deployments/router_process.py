"""The real Router in a process of its own, to be killed: called over a socket, as Serve would call it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

from apportion.deployments.config.service import ServiceConfig
from apportion.router.batch.messages import EngineReplica, Reply, Report
from tests.deployments.local_router import make_router

HEADER_BYTES = 8


def _serve(config: ServiceConfig, path: str) -> None:
    asyncio.run(_serve_forever(config, path))


async def _serve_forever(config: ServiceConfig, path: str) -> None:
    router = make_router(config)
    for model in config.models:
        await router.announce(EngineReplica(f"{model.name}-0", model.name, "http://nowhere", model.max_num_seqs))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        report, wait = await _read(reader)
        writer.write(_frame(await router.exchange(report, wait)))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    await server.serve_forever()


def _frame(value: Any) -> bytes:
    data = pickle.dumps(value)
    return len(data).to_bytes(HEADER_BYTES, "big") + data


async def _read(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(HEADER_BYTES), "big")
    return pickle.loads(await reader.readexactly(size))


class RouterProcess:
    """Starts, kills and restarts it; `exchange` is what an ingress's link needs."""

    def __init__(self, config: ServiceConfig, folder: Path) -> None:
        self._config = config
        self._path = str(folder / "apportion.router.sock")
        self._process: Any = None

    def start(self) -> None:
        """Returns when it listens."""
        Path(self._path).unlink(missing_ok=True)
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(self._config, self._path), daemon=True)
        self._process.start()
        while not Path(self._path).exists():
            time.sleep(0.02)

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    async def exchange(self, report: Report, wait: bool) -> Reply:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(_frame((report, wait)))
            await writer.drain()
            reply: Reply = await _read(reader)
            return reply
        finally:
            writer.close()
