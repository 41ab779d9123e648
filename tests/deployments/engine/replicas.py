"""Real engine replicas in this process, which announce themselves to a router here: only Serve is played."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine import replica as replica_module
from apportion.deployments.engine.replica import Engine, EnginePlace
from apportion.deployments.wire.listening import ANY_PORT


class Replica(Engine.func_or_class):  # type: ignore[name-defined, misc]
    """Serve awaits the destructor before Python calls it; here it is awaited as `leave`."""

    leave = Engine.func_or_class.__del__

    def __del__(self) -> None: ...


async def start_replica(monkeypatch: pytest.MonkeyPatch, router: Any, model: ModelConfig, tag: str) -> Any:
    """Starts one, and waits until the router knows it."""
    handle = SimpleNamespace(announce=SimpleNamespace(remote=router.announce))
    context = SimpleNamespace(app_name="app", replica_tag=tag)
    monkeypatch.setattr(replica_module.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(replica_module.serve, "get_deployment_handle", lambda *_, **__: handle)
    monkeypatch.setattr(replica_module, "log_to_serve", lambda: None)
    engine = Replica.__new__(Replica)
    await engine.__init__(model, EnginePlace("127.0.0.1", ANY_PORT, 30.0, 5.0))
    while tag not in (await router.state())["replicas"]:
        await asyncio.sleep(0.01)
    return engine
