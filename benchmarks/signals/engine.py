"""A real engine in a process of its own, reached at its own port."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.replica import start_backend
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.engine.settings import environment, with_defaults

READY_S = 600.0


@contextlib.contextmanager
def engine_port(model: ModelConfig) -> Iterator[tuple[str, int]]:
    """Starts the model's engine; where it answers, and the number of its process.

    Raises:
        TimeoutError: it has not started in time.
        EOFError: it cannot start; its log says why.
    """
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_run, args=(with_defaults(model), there))
    process.start()
    there.close()  # so that the end of the process is seen here
    try:
        if not here.poll(READY_S):
            raise TimeoutError(f"the engine of {model.name} did not start within {READY_S:g} s; its log says why")
        yield str(here.recv()), process.pid or 0
    finally:
        with contextlib.suppress(OSError):  # it has ended by itself
            here.send(None)
        process.join(30)
        process.kill()


def _run(model: ModelConfig, told: Connection) -> None:
    os.environ.update(environment(model))  # which vLLM reads when it is imported
    asyncio.run(_answer_until_told(model, told))


async def _answer_until_told(model: ModelConfig, told: Connection) -> None:
    backend = await start_backend(model)
    server = EngineServer(backend.app, "127.0.0.1")
    await server.start()
    told.send(server.url)
    await asyncio.to_thread(told.recv)
    await server.stop()
    backend.close()
