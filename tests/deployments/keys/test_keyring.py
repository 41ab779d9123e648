from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from apportion.deployments.config.budget import LimitConfig
from apportion.deployments.config.keys import KeysConfig, Permissions
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.keys.authenticator import Authenticator
from apportion.deployments.keys.caller import ANYBODY, Caller, caller_of
from apportion.deployments.keys.keyring import Keyring, new_key
from apportion.router.batch.messages import RoutingAsk
from apportion.router.budget import Account, Limit, Scope, Window
from apportion.router.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    ModelDeniedError,
    PermissionDeniedError,
    RateLimitError,
)
from tests.deployments.local_router import configuration

MODELS = ("small", "large")
CHAT = b'{"messages": [{"role": "user", "content": "x"}]'


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str, **others: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", **others}


def keyring(path: Path, *entries: dict[str, Any]) -> Keyring:
    path.write_text(yaml.safe_dump(list(entries)))
    return Keyring(KeysConfig(file=str(path)), MODELS, with_budget=True)


def caller(ring: Keyring, headers: dict[str, str]) -> Caller:
    return caller_of(ring.entry(headers), Permissions(), headers)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


ALICE = {"name": "alice", "sha256": hashed("secret-a")}
BOB = {
    "name": "bob",
    "sha256": hashed("secret-b"),
    "models": ["small"],
    "tenant": "acme",
    "requests_per_minute": 60,
    "limits": [{"window": "month", "usd": 1.5}],
}


def test_a_key_says_who_asks(file: Path) -> None:
    ring = keyring(file, ALICE, BOB)
    assert caller(ring, bearer("secret-a")).account == Account("alice")
    bob = caller(ring, bearer("secret-b"))
    assert (bob.account, bob.permissions.models) == (Account("bob", "acme"), ("small",))
    assert ring.keys.limits == (Limit(Scope.key, Window.month, 1_500_000_000, "bob"),)


def test_a_tenant_is_believed_only_from_who_may_name_one(file: Path) -> None:
    ring = keyring(file, ALICE, BOB, {"name": "gateway", "sha256": hashed("secret-g"), "tenant_header": True})
    assert caller(ring, bearer("secret-g", **{"x-router-tenant": "t"})).account == Account("gateway", "t")
    assert caller(ring, bearer("secret-g")).account == Account("gateway")
    assert caller(ring, bearer("secret-b", **{"x-router-tenant": "acme"})).account == Account("bob", "acme")
    for secret in ("secret-a", "secret-b"):
        with pytest.raises(PermissionDeniedError, match="tenant_header: true") as caught:
            caller(ring, bearer(secret, **{"x-router-tenant": "rival"}))
        assert (caught.value.status, caught.value.code) == (403, "permission_denied")
    for wrong in ("x" * 200, "a\x00b", "unnamed"):
        with pytest.raises(InvalidRequestError, match="printable"):
            caller(ring, bearer("secret-g", **{"x-router-tenant": wrong}))


@pytest.mark.parametrize("header", ["api-key", "x-api-key"])
def test_a_key_may_come_as_other_services_ask_for_it(file: Path, header: str) -> None:
    ring = keyring(file, ALICE, BOB)
    assert ring.entry({header: "secret-a"}).name == "alice"
    assert ring.entry({header: "secret-a", "authorization": "Basic x"}).name == "alice"
    assert ring.entry(bearer("secret-a", **{header: "secret-b"})).name == "alice"
    with pytest.raises(AuthenticationError):
        ring.entry({header: "Bearer secret-a"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "secret-a"},
        {"authorization": "Basic secret-a"},
        bearer(""),
        bearer("wrong"),
        bearer(hashed("secret-a")),
        bearer("secret-a" + "x" * 1000),
        bearer("\udc80"),
    ],
)
def test_anything_else_is_401_and_says_nothing_of_what_was_sent(file: Path, headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError) as caught:
        keyring(file, ALICE).entry(headers)
    assert caught.value.status == 401
    assert "secret" not in caught.value.message
    assert hashed("secret-a") not in caught.value.message


def test_a_key_may_use_its_models_only(file: Path) -> None:
    bob = caller(keyring(file, BOB), bearer("secret-b"))
    assert parse("chat", CHAT + b"}", {}, Rules(MODELS), bob).item.ask.permitted == ("small",)
    assert parse("chat", CHAT + b', "model": "small"}', {}, Rules(MODELS), bob).item.model == "small"
    both = b', "routing": {"models": ["small", "large"]}}'
    assert parse("chat", CHAT + both, {}, Rules(MODELS), bob).item.ask.permitted == ("small",)
    for wish in (b', "model": "large"}', b', "routing": {"models": ["large"]}}'):
        with pytest.raises(ModelDeniedError, match="may not use large; it may use small") as caught:
            parse("chat", CHAT + wish, {}, Rules(MODELS), bob)
        assert caught.value.status == 403
    assert parse("chat", CHAT + b"}", {}, Rules(MODELS), bob).item.account == Account("bob", "acme")


def test_without_keys_a_request_asks_for_what_it_likes_but_names_no_tenant() -> None:
    assert ANYBODY.restrict("large", RoutingAsk()) == RoutingAsk()
    door = Authenticator(configuration(None))
    assert door.admit({}) == ANYBODY
    with pytest.raises(PermissionDeniedError, match=r"anonymous\.tenant_header: true"):
        door.admit({"x-router-tenant": "acme"})
    trusting = Authenticator(configuration(None, anonymous={"tenant_header": True}))
    assert trusting.admit({"x-router-tenant": "acme"}).account == Account(tenant="acme")
    assert trusting.admit({}).account == Account()


@pytest.mark.parametrize(
    ("may", "wish", "param"),
    [
        ({}, {"routing": {"priority": 1}}, "routing.priority"),
        ({"max_priority": 2}, {"routing": {"priority": 3}}, "routing.priority"),
        ({"strategies": []}, {"routing": {"strategy": "mip"}}, "routing.strategy"),
        ({"strategies": ["greedy"]}, {"routing": {"strategy": "mip"}}, "routing.strategy"),
        ({"max_sequences": 2}, {"n": 3}, "n"),
    ],
)
def test_who_asks_for_more_than_it_may_is_told_so(may: dict[str, Any], wish: dict[str, Any], param: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], **wish}).encode()
    for account in (Account(), Account("k")):
        with pytest.raises(PermissionDeniedError) as caught:
            parse("chat", body, {}, Rules(MODELS), Caller(account, Permissions(**may)))
        assert (caught.value.status, caught.value.code, caught.value.param) == (403, "permission_denied", param)


def test_who_may_ask_for_more_gets_it() -> None:
    wish = {"routing": {"priority": 3, "strategy": "greedy"}, "n": 2}
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], **wish}).encode()
    may = Permissions(max_priority=3, strategies=("greedy",), max_sequences=2)
    item = parse("chat", body, {}, Rules(MODELS), Caller(Account(), may)).item
    assert (item.priority, item.ask.strategy, item.sequences) == (3, "greedy", 2)
    assert parse("chat", CHAT + b', "routing": {"priority": -3}}', {}, Rules(MODELS)).item.priority == -3


def test_keys_come_and_go_while_the_service_runs(file: Path) -> None:
    ring = keyring(file, ALICE)
    assert not ring.refresh()
    file.write_text(yaml.safe_dump([BOB]))
    os.utime(file, (time.time() + 1, time.time() + 1))
    assert ring.refresh()
    assert ring.entry(bearer("secret-b")).name == "bob"
    with pytest.raises(AuthenticationError):
        ring.entry(bearer("secret-a"))


def test_a_broken_file_locks_nobody_out_and_is_told_without_its_contents(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = keyring(file, ALICE)
    for content in (b"- {name: x, sha256: secret-in-the-clear}", b"{", b"", b"secret-in: x", b"- {name: \xff}", None):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with caplog.at_level(logging.ERROR, logger="apportion"):
            assert not ring.refresh()
        assert ring.entry(bearer("secret-a")).name == "alice"
        assert "stay as they were" in (ring.error or "")
    assert len(caplog.records) == 6
    assert "secret-in" not in caplog.text


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([ALICE, ALICE | {"sha256": hashed("z")}], "same name"),
        ([ALICE, ALICE | {"name": "z"}], "same hash"),
        (
            [ALICE | {"models": ["lage"]}],
            "key alice: models: 'lage' is no model of this service; the nearest is 'large'",
        ),
        ([ALICE | {"strategies": ["mipp"]}], "'mipp': unknown; the nearest is 'mip'"),
        ([ALICE | {"tenant": "t", "tenant_header": True}], "give one of them"),
        ([ALICE | {"tenant": "unnamed"}], "choose another"),
        ([ALICE | {"name": "unnamed"}], "choose another"),
        ([ALICE | {"colour": "red"}], "colour"),
        ([ALICE, {"name": "bob", "sha256": "secret-a"}], "1.sha256"),
    ],
)
def test_wrong_files_are_named(file: Path, entries: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        keyring(file, *entries)
    assert "secret-a" not in str(caught.value)


def test_keys_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = KeysConfig(env="APPORTION_KEYS")
    with pytest.raises(ConfigurationError, match="no variable APPORTION_KEYS"):
        Keyring(config, MODELS, with_budget=False)
    key, digest = new_key()
    monkeypatch.setenv("APPORTION_KEYS", f'[{{"name": "k", "sha256": "{digest}"}}]')
    ring = Keyring(config, MODELS, with_budget=False)
    assert ring.entry(bearer(key)).name == "k"
    assert not ring.refresh()


def test_one_source_of_keys() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        KeysConfig()


def test_only_operators_see_the_whole_service(file: Path) -> None:
    file.write_text(yaml.safe_dump([ALICE, {"name": "bob", "sha256": hashed("secret-b"), "operator": True}]))
    door = Authenticator(configuration(None, keys={"file": str(file)}))
    assert door.is_operator(bearer("secret-b"))
    assert not any(door.is_operator(headers) for headers in (bearer("secret-a"), bearer("nobody"), {}))
    assert Authenticator(configuration(None)).is_operator({}), "without keys the service is open"


def test_limits_that_nobody_would_keep_are_refused(file: Path) -> None:
    file.write_text(yaml.safe_dump([BOB]))
    with pytest.raises(ConfigurationError, match="key bob: limits need a `budget` section"):
        Keyring(KeysConfig(file=str(file)), MODELS, with_budget=False)


def test_a_limit_of_a_key_that_is_not_there_is_named(file: Path) -> None:
    ring = keyring(file, ALICE, BOB)
    of_key = {"scope": "key", "window": "day", "usd": 1}
    limits = [LimitConfig.model_validate(of_key | {"name": name}) for name in ("bob", None, "alise")]
    assert ring.unknown(limits[:2]) is None
    assert ring.unknown(limits) == "limits: there is no key 'alise'; the nearest is 'alice'"


def test_a_watched_file_is_read_without_a_request(file: Path) -> None:
    ring = keyring(file, ALICE)
    stop = ring.watch(0.01)
    file.write_text(yaml.safe_dump([BOB]))
    os.utime(file, (time.time() + 1, time.time() + 1))
    deadline_s = time.monotonic() + 10
    while "bob" not in ring.keys.by_name and time.monotonic() < deadline_s:
        time.sleep(0.01)
    stop()
    assert set(ring.keys.by_name) == {"bob"}


def test_nothing_ends_the_watch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = keyring(file, ALICE)
    looks = []

    def fails() -> bool:
        looks.append(ring.error)
        raise RuntimeError("secret-a")

    monkeypatch.setattr(ring, "refresh", fails)
    stop = ring.watch(0.01)
    deadline_s = time.monotonic() + 10
    while len(looks) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    stop()
    assert looks[:1] == [None]
    assert looks[2] == "the API keys stay as they were: RuntimeError"


def test_a_key_may_be_kept_from_planning_only() -> None:
    Caller().check_route()
    with pytest.raises(PermissionDeniedError, match="may not use /v1/route"):
        Caller(Account("k"), Permissions(route=False)).check_route()


def test_a_flood_is_sent_away_before_its_bodies_are_read_and_looking_does_not_count(file: Path) -> None:
    file.write_text(yaml.safe_dump([ALICE | {"requests_per_minute": 60}]))
    with_keys = Authenticator(configuration(None, keys={"file": str(file)}))
    without = Authenticator(configuration(None, anonymous={"requests_per_minute": 60}))
    for door, headers in ((with_keys, bearer("secret-a")), (without, {})):
        for _ in range(100):
            door.admit(headers)
        for _ in range(10):  # twice its burst: exact counting is the router's
            door.admit_request(headers)
        with pytest.raises(RateLimitError, match="may send 60 requests a minute"):
            _ = [door.admit_request(headers) for _ in range(10)]
        door.close()
