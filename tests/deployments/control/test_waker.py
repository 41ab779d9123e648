"""Models that sleep, through the real Router, planner and ledger: what is asked of Serve, and what is told of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apportion.deployments.config.replica_groups import ReplicaGroup
from apportion.deployments.control.waker import Waker
from apportion.deployments.wire.bulk import RunnerReport
from apportion.router.batch.messages import EngineReplica, RouteItem
from apportion.router.errors import AsleepError
from tests.deployments.local_router import NAMES, LocalService, configuration
from tests.router.batch.plain_room import until


class SleepingDeployment:
    """A deployment without replicas: calls wait at its handle for as long as nobody answers them."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[None]] = []
        self.where = SimpleNamespace(remote=self._call)

    def _call(self) -> asyncio.Future[None]:
        self.calls.append(asyncio.get_running_loop().create_future())
        return self.calls[-1]


async def test_one_call_waits_for_each_model_that_is_wanted_and_no_longer() -> None:
    owl, rook = SleepingDeployment(), SleepingDeployment()
    engines: dict[str, Any] = {"owl": owl, "rook": rook}
    waker = Waker(engines)

    async def asked(*wanted: str) -> int:
        waker.ask(wanted)
        await asyncio.sleep(0.01)
        return len(owl.calls)

    assert [await asked("owl"), await asked("owl", "rook")] == [1, 1]
    assert await asked("rook") == 1
    assert owl.calls[0].cancelled()
    assert not rook.calls[0].cancelled()
    assert await asked("owl") == 2
    owl.calls[1].set_exception(RuntimeError("no replica could be started"))
    assert await asked("owl") == 2
    assert await asked("owl") == 3, "it is asked for as long as it is wanted"


def sleeping(folder: Path, owl: Any, **sections: Any) -> LocalService:
    """A service with a model that sleeps."""
    config = configuration(folder / "b.db", newcomers=[{"name": "owl"}], **sections)
    groups = (ReplicaGroup(name="all", min_replicas=0),)
    models = (*config.models[:-1], config.models[-1].model_copy(update={"replica_groups": groups}))
    service = LocalService(config.model_copy(update={"models": models}))
    service.router._waker = Waker({"owl": owl})
    return service


async def test_a_request_wakes_its_model_and_is_answered(tmp_path: Path) -> None:
    owl = SleepingDeployment()
    service = sleeping(tmp_path, owl)
    await service.announce()
    try:
        assert (await service.router.state())["models"]["owl"] == {"slots": 0, "free_slots": 0, "asleep": True}
        named = asyncio.create_task(service.plan(RouteItem(id="n", model="owl", max_tokens=10)))
        await until(lambda: bool(owl.calls))
        page = (await service.router.metrics()).decode()
        assert 'apportion_asleep{model="owl"} 1' in page
        assert (await service.router.bulk(RunnerReport("runner"))).slots["owl"] == 1, "rows of jobs may wake it"
        assert 'apportion_queue_length{wait_for="model"} 1' in page
        assert (await service.plan(RouteItem(id="other", max_tokens=10))).model in NAMES
        await service.router.announce(EngineReplica("owl-0", "owl", "http://nowhere", 4))
        assert (await named).model == "owl"
        assert not (await service.router.state())["models"]["owl"]["asleep"]
    finally:
        await service.close()


async def test_a_model_that_does_not_wake_in_time_is_told_of(tmp_path: Path) -> None:
    service = sleeping(tmp_path, SleepingDeployment(), routing={"wake_timeout_s": 0.1})
    await service.announce()
    try:
        with pytest.raises(AsleepError, match="only owl may answer"):
            await service.plan(RouteItem(id="n", model="owl", max_tokens=10))
        assert (await service.router.state())["waiting_for_model"] == 0
    finally:
        await service.close()
