"""Text leaves for models that somebody else runs only where the caller's entry or its tenant's says so."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from apportion.allocation.serve_file import ServeFile
from apportion.deployments.config.keys import Permissions
from apportion.deployments.config.reader import ReadConfig
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.router_state import RouterState
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.jobs.callers import JobCallers
from apportion.deployments.keys.authenticator import Authenticator
from apportion.deployments.keys.caller import Caller
from apportion.deployments.keys.check import check_keys
from apportion.router.batch.messages import Done
from apportion.router.errors import ConfigurationError, ModelDeniedError
from apportion.router.jobs.records import Job
from tests.deployments.local_router import NAMES, LocalService, configuration, keys_file

# It answers everything well, for nothing.
BEST: dict[str, Any] = {
    "name": "best",
    "source": "",
    "engine": "external",
    "external": {"base_url": "https://api.example.com/v1", "model": "vendor-1"},
    "input_usd_per_million": 0,
    "output_usd_per_million": 0,
    "prior_success": 1.0,
}
AUTO = b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 10}'
NAMED = json.dumps(json.loads(AUTO) | {"model": "best"}).encode()
ASKED = json.dumps(json.loads(AUTO) | {"routing": {"models": ["best"]}}).encode()


def service(*entries: dict[str, Any], folder: Path, **sections: Any) -> ServiceConfig:
    keys = {"keys": keys_file(folder / "keys.yaml", *entries)} if entries else {}
    return configuration(None, newcomers=[BEST], **keys, **sections)


def callers(config: ServiceConfig, *names: str, **headers: str) -> list[Caller]:
    door = Authenticator(config)
    try:
        return [door.admit({"authorization": f"Bearer {name}"} | headers) for name in names]
    finally:
        door.close()


def permitted(caller: Caller, body: bytes = AUTO) -> tuple[str, ...] | None:
    return parse("chat", body, {}, Rules((*NAMES, "best")), caller).item.ask.permitted


def test_with_keys_nothing_leaves_unless_an_entry_says_so(tmp_path: Path) -> None:
    entries = (
        {"name": "plain"}, {"name": "free", "external": True}, {"name": "bound", "external": False},
        {"name": "few", "models": ["best", "wren"]}, {"name": "both", "models": ["best", "wren"], "external": True},
    )  # fmt: skip
    plain, free, bound, few, both = callers(service(*entries, folder=tmp_path), "plain", "free", "bound", "few", "both")
    assert (permitted(free), permitted(both)) == (None, ("best", "wren"))
    assert [permitted(one) for one in (plain, bound, few)] == [NAMES, NAMES, ("wren",)]
    assert permitted(free, NAMED) is None
    for caller in (plain, bound, few):
        for body in (NAMED, ASKED):
            with pytest.raises(ModelDeniedError, match="only with the permission `external`") as caught:
                permitted(caller, body)
            assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")


def test_without_keys_text_may_leave_unless_anybody_is_bound(tmp_path: Path) -> None:
    assert permitted(callers(service(folder=tmp_path), "x")[0], NAMED) is None
    bound = service(folder=tmp_path, anonymous={"external": False})
    assert permitted(callers(bound, "x")[0]) == NAMES


@pytest.mark.parametrize(
    ("of_key", "of_tenant", "leaves"),
    [
        (None, None, False), (None, True, True), (None, False, False), (True, None, True), (True, True, True),
        (True, False, False), (False, True, False),
    ],
)  # fmt: skip
def test_a_tenants_entry_counts_beside_the_keys(
    tmp_path: Path, of_key: bool | None, of_tenant: bool | None, leaves: bool
) -> None:
    entries = ({"name": "own", "tenant": "acme", "external": of_key}, {"name": "gate", "tenant_header": True})
    entries[1]["external"] = of_key
    config = service(*entries, folder=tmp_path, tenants={"acme": {"external": of_tenant}})
    (own,) = callers(config, "own")
    (named,) = callers(config, "gate", **{"x-router-tenant": "acme"})
    assert [permitted(one) for one in (own, named)] == [None if leaves else NAMES] * 2
    (other,) = callers(config, "gate", **{"x-router-tenant": "other"})
    assert permitted(other) == (None if of_key else NAMES)


def test_requests_without_a_tenant_are_of_the_unnamed_one(tmp_path: Path) -> None:
    config = service(folder=tmp_path, tenants={"unnamed": {"external": False}})
    assert permitted(callers(config, "x")[0]) == NAMES


def test_a_key_that_can_use_nothing_is_a_mistake(tmp_path: Path) -> None:
    config = service({"name": "k", "models": ["best"]}, folder=tmp_path)
    (caller,) = callers(config, "k")
    with pytest.raises(ModelDeniedError, match="models from outside alone"):
        permitted(caller)
    file = ServeFile.of("config.yaml", "applications: [{args: {}}]")
    with pytest.raises(ConfigurationError, match=r"config\.yaml: key k may use models from outside alone"):
        check_keys(ReadConfig(file, config))
    check_keys(ReadConfig(file, service({"name": "k", "models": ["best"], "external": True}, folder=tmp_path)))


def test_rows_of_a_job_stay_where_their_owner_may_not_have_them_leave_any_more(tmp_path: Path) -> None:
    config = service({"name": "k", "external": True}, folder=tmp_path)
    (caller,) = callers(config, "k")
    granted = caller.permissions.model_dump(mode="json", include=set(Permissions.model_fields))
    job = Job("batch_1", caller.account, "/v1/chat/completions", "file-1", "24h", 1, caller=granted)

    def asks(config: ServiceConfig, job: Job = job) -> Caller:
        known = JobCallers(config)
        try:
            return known.of(job, None).asks()
        finally:
            known.close()

    assert permitted(asks(config)) is None
    assert permitted(asks(service({"name": "k"}, folder=tmp_path))) == NAMES
    with pytest.raises(ModelDeniedError):
        permitted(asks(service({"name": "k", "external": False}, folder=tmp_path)), NAMED)
    only = dataclasses.replace(job, caller=granted | {"models": ["best"]})
    assert asks(service({"name": "k"}, folder=tmp_path), only).models == ()


async def test_the_router_never_sends_it_there_by_itself(tmp_path: Path) -> None:
    config = service({"name": "plain"}, {"name": "free", "external": True}, folder=tmp_path)
    plain, free = callers(config, "plain", "free")
    running = LocalService(config)
    try:
        await running.announce()

        async def chosen(caller: Caller) -> set[str]:
            items = [parse("chat", AUTO, {}, Rules((*NAMES, "best")), caller).item for _ in range(20)]
            found = await asyncio.gather(*(running.plan(item) for item in items))
            for one in found:
                running.link.finish(Done(one.id, 0.0))
            return {one.model for one in found}

        assert "best" in await chosen(free)
        assert "best" not in await chosen(plain)
    finally:
        await running.close()


async def test_models_say_whether_they_are_outside(tmp_path: Path) -> None:
    config = service(folder=tmp_path)

    async def told(_: float) -> dict[str, Any]:
        return {}

    described = await RouterState(told, config.models).described(("wren", "best"), config.names)
    assert [one["external"] for one in described] == [False, True]
