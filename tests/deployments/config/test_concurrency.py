from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.config.service import live_policy
from apportion.deployments.keys.keyring import Keyring
from apportion.deployments.wire.headers import verdict_json
from apportion.router.batch.concurrency import ConcurrencyLimit, Counted
from apportion.router.batch.messages import Done, RouteItem
from apportion.router.errors import ConfigurationError
from tests.deployments.local_router import LocalService, close_router, configuration, keys_file, make_router, report

LIMIT = {"name": "few", "at_most": 8}
VARIANTS = {"name": "qwen", "variants": [{"name": "quick"}, {"name": "think"}]}


def parse(*limits: dict[str, Any], **sections: Any) -> Any:
    return configuration(None, newcomers=[VARIANTS], routing={"concurrency_limits": limits}, **sections)


def test_limits_are_read_as_they_are_written() -> None:
    config = parse(
        {"name": "acme-heron", "models": ["heron"], "tenants": ["acme"], "share": 0.3},
        {"name": "kv", "models": ["wren", "qwen@think"], "of": "tokens", "at_most": 20_000},
        {"name": "free", "tenants": ["free", "unnamed"], "of": "requests", "at_most": 40},
        anonymous={"tenant_header": True},
    )
    assert [one.limit() for one in config.routing.concurrency_limits] == [
        ConcurrencyLimit("acme-heron", Counted.slots, share=0.3, models=("heron",), tenants=("acme",)),
        ConcurrencyLimit("kv", Counted.tokens, at_most=20_000, models=("wren", "qwen@think")),
        ConcurrencyLimit("free", Counted.requests, at_most=40, tenants=("free", "unnamed")),
    ]


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"name": "few"}, "`at_most` or `share`: give one of them"),
        (LIMIT | {"share": 0.5}, "`at_most` or `share`: give one of them"),
        (LIMIT | {"at_most": 0}, "concurrency_limits.0.at_most"),
        ({"name": "few", "share": 1.5}, "concurrency_limits.0.share"),
        ({"name": "few", "share": 0}, "concurrency_limits.0.share"),
        ({"name": "few", "share": 0.5, "of": "tokens"}, "this limit counts tokens; give `at_most`, or `of: slots`"),
        (LIMIT | {"of": "seconds"}, "concurrency_limits.0.of"),
        (LIMIT | {"models": []}, "concurrency_limits.0.models"),
        (LIMIT | {"tenants": []}, "concurrency_limits.0.tenants"),
        (LIMIT | {"name": "a b"}, "concurrency_limits.0.name"),
        (LIMIT | {"models": ["heorn"]}, "few.models: 'heorn' is no model of this service; the nearest is 'heron'"),
        (LIMIT | {"models": ["qwen@thnk"]}, "the nearest is 'qwen@think'"),
        (LIMIT | {"tenants": ["acme"]}, "few.tenants: nobody can be of the tenant 'acme'; add `keys`"),
        (LIMIT | {"keys": ["k"]}, "few.keys: nobody has a key without a `keys` section"),
        (LIMIT | {"window": "day"}, "window: unknown field"),
    ],
)
def test_mistakes_are_named(limit: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse(limit)
    with pytest.raises(ConfigurationError, match=says):
        live_policy({"concurrency_limits": [limit]}, parse())


def test_two_limits_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'few' stands twice; give each limit its own"):
        parse(LIMIT, LIMIT)


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (LIMIT | {"tenants": ["acme"], "keys": ["alice"]}, None),
        (LIMIT | {"tenants": ["acne"]}, "few: there is no tenant 'acne'; the nearest is 'acme'"),
        (LIMIT | {"keys": ["alcie"]}, "few: there is no key 'alcie'; the nearest is 'alice'"),
    ],
)
def test_whom_limits_hold_for_is_looked_up_among_the_keys(tmp_path: Path, limit: dict[str, Any], says: str) -> None:
    keys = keys_file(tmp_path / "keys.yaml", {"name": "alice", "tenant": "acme"}, {"name": "bob"})
    config = parse(limit, keys=keys)
    told = Keyring.of(config).uncounted(config.routing.concurrency_limits)
    assert told is None if says is None else says in told
    named = keys_file(tmp_path / "keys.yaml", {"name": "alice", "tenant_header": True})
    config = parse(LIMIT | {"tenants": ["whoever"]}, keys=named)
    assert Keyring.of(config).uncounted(config.routing.concurrency_limits) is None


async def test_a_router_that_starts_anew_knows_what_its_limits_have_in_flight() -> None:
    limits = [LIMIT, {"name": "kv", "of": "tokens", "at_most": 60, "models": ["heron"]}]
    service = LocalService(configuration(None, routing={"concurrency_limits": limits}))
    await service.announce()
    for i in range(2):
        await service.link.plan(RouteItem(f"r{i}", model="heron", max_tokens=20))
    held = tuple(service.link._held.values())
    before, service.router = service.router, make_router(service.config)
    await service.announce()
    router = service.router
    await router.exchange(report("i", items=(RouteItem("r2", model="heron", max_tokens=30),), held=held), False)
    state = await router.state()
    assert {name: one["in_flight"] for name, one in state["concurrency_limits"].items()} == {"few": 2, "kv": 40}
    await router.exchange(report("i", done=(Done("r0", 0.0),)), False)
    assert [one.id for one in (await router.exchange(report("i"), True)).verdicts] == ["r2"]
    assert (await router.state())["concurrency_limits"]["kv"]["in_flight"] == 50
    await router.exchange(report("i", done=(Done("r1", 0.0), Done("r2", 0.0))), False)
    assert (await router.state())["concurrency_limits"]["kv"]["in_flight"] == 0
    await close_router(before)
    await service.close()


async def test_a_plan_that_is_not_run_tells_what_a_limit_is_worth() -> None:
    service = LocalService(configuration(None, routing={"concurrency_limits": [LIMIT | {"at_most": 2}]}))
    await service.announce()
    told = [verdict_json(i, one) for i, one in enumerate(await service.route([RouteItem(f"r{i}") for i in range(3)]))]
    assert [one.get("error", {}).get("message", "")[:30] for one in told] == ["", "", "more requests than slots: this"]
    assert told[0]["batch"]["limit_prices"] == {"few": 0.0}, "whoever waits, and for whatever, costs the plan nothing"
    limit = LIMIT | {"at_most": 1, "models": ["heron"]}
    service.router.reconfigure({"concurrency_limits": [limit]})
    told = [verdict_json(i, one) for i, one in enumerate(await service.route([RouteItem(f"r{i}") for i in range(3)]))]
    assert told[0]["batch"]["limit_prices"]["few"] > 0
    assert told[0]["batch"]["binding"] == ["limits[few]"]
    await service.close()


async def test_limits_change_while_the_router_runs() -> None:
    service = LocalService(configuration(None, routing={"concurrency_limits": [LIMIT]}))
    assert (await service.router.state())["concurrency_limits"]["few"]["at_most"] == 8
    service.router.reconfigure({"concurrency_limits": [LIMIT | {"at_most": 2}, LIMIT | {"name": "more"}]})
    state = await service.router.state()
    assert [one["at_most"] for one in state["concurrency_limits"].values()] == [2, 8]
    service.router.reconfigure({"concurrency_limits": [LIMIT, LIMIT]})
    state = await service.router.state()
    assert "stands twice" in state["policy_error"]
    assert len(state["concurrency_limits"]) == 2, "a wrong policy changes nothing"
    service.router.reconfigure({})
    assert list((await service.router.state())["concurrency_limits"]) == ["few"]
    await service.close()
