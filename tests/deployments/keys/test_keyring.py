from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from apportion.deployments.config.keys import KeysConfig
from apportion.deployments.ingress.openai import parse
from apportion.deployments.keys.authenticator import Authenticator
from apportion.deployments.keys.keyring import ANYBODY, Caller, Keyring, new_key
from apportion.router.batch.messages import RoutingAsk
from apportion.router.budget import Account, Limit, Scope, Window
from apportion.router.errors import AuthenticationError, ConfigurationError, InvalidRequestError, PermissionDeniedError

MODELS = ("small", "large")
CHAT = b'{"messages": [{"role": "user", "content": "x"}]'


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(key: str, **others: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}", **others}


def keyring(path: Path, *entries: dict[str, Any]) -> Keyring:
    path.write_text(yaml.safe_dump(list(entries)))
    return Keyring(KeysConfig(file=str(path)), MODELS)


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
    assert ring.caller(bearer("secret-a")) == Caller(Account("alice"))
    assert ring.caller(bearer("secret-a", **{"x-router-tenant": "t"})).account == Account("alice", "t")
    assert ring.caller(bearer("secret-b", **{"x-router-tenant": "t"})) == Caller(Account("bob", "acme"), ("small",))
    assert ring.limits() == (Limit(Scope.key, Window.month, 1_500_000_000, "bob"),)
    assert ring.rates() == {"bob": 60}


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
        keyring(file, ALICE).caller(headers)
    assert caught.value.status == 401
    assert "secret" not in caught.value.message
    assert hashed("secret-a") not in caught.value.message


def test_a_key_may_use_its_models_only(file: Path) -> None:
    caller = keyring(file, BOB).caller(bearer("secret-b"))
    assert parse("chat", CHAT + b"}", {}, MODELS, caller).item.ask.models == ("small",)
    assert parse("chat", CHAT + b', "model": "small"}', {}, MODELS, caller).item.model == "small"
    both = b', "routing": {"models": ["small", "large"]}}'
    assert parse("chat", CHAT + both, {}, MODELS, caller).item.ask.models == ("small",)
    for wish in (b', "model": "large"}', b', "routing": {"models": ["large"]}}'):
        with pytest.raises(PermissionDeniedError, match="may not use large; it may use small") as caught:
            parse("chat", CHAT + wish, {}, MODELS, caller)
        assert caught.value.status == 403
    assert parse("chat", CHAT + b"}", {}, MODELS, caller).item.account == Account("bob", "acme")


def test_without_keys_a_request_asks_for_what_it_likes() -> None:
    assert ANYBODY.restrict("large", RoutingAsk()) == RoutingAsk()
    door = Authenticator(None, MODELS)
    assert door.admit({}) is ANYBODY
    assert door.admit({"x-router-tenant": "acme"}).account == Account(tenant="acme")
    for wrong in ("x" * 200, "a\x00b"):
        with pytest.raises(InvalidRequestError, match="printable"):
            door.admit({"x-router-tenant": wrong})


def test_keys_come_and_go_while_the_service_runs(file: Path) -> None:
    ring = keyring(file, ALICE)
    assert not ring.refresh()
    file.write_text(yaml.safe_dump([BOB]))
    os.utime(file, (time.time() + 1, time.time() + 1))
    assert ring.refresh()
    assert ring.caller(bearer("secret-b")).account.key == "bob"
    with pytest.raises(AuthenticationError):
        ring.caller(bearer("secret-a"))


def test_a_broken_file_locks_nobody_out_and_is_told_without_its_contents(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = keyring(file, ALICE)
    for content in (b"- {name: x, sha256: secret-in-the-clear}", b"{", b"", b"- {name: \xff}", None):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with caplog.at_level(logging.ERROR, logger="apportion"):
            assert not ring.refresh()
        assert ring.caller(bearer("secret-a")).account.key == "alice"
    assert len(caplog.records) == 5
    assert "secret-in" not in caplog.text


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([ALICE, ALICE | {"sha256": hashed("z")}], "same name"),
        ([ALICE, ALICE | {"name": "z"}], "same hash"),
        ([ALICE | {"models": ["nobody"]}], "no models of this service"),
        ([ALICE | {"colour": "red"}], "colour"),
        ([{"name": "alice", "sha256": "secret-a"}], "sha256"),
    ],
)
def test_wrong_files_are_named(file: Path, entries: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        keyring(file, *entries)
    assert "secret-a" not in str(caught.value)


def test_keys_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = KeysConfig(env="APPORTION_KEYS")
    with pytest.raises(ConfigurationError, match="no variable APPORTION_KEYS"):
        Keyring(config, MODELS)
    key, digest = new_key()
    monkeypatch.setenv("APPORTION_KEYS", f'[{{"name": "k", "sha256": "{digest}"}}]')
    ring = Keyring(config, MODELS)
    assert ring.caller(bearer(key)).account == Account("k")
    assert not ring.refresh()


def test_one_source_of_keys() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        KeysConfig()


def test_only_operators_see_the_whole_service(file: Path) -> None:
    file.write_text(yaml.safe_dump([ALICE, BOB | {"operator": True}]))
    door = Authenticator(KeysConfig(file=str(file)), MODELS)
    assert door.is_operator(bearer("secret-b"))
    assert not any(door.is_operator(headers) for headers in (bearer("secret-a"), bearer("nobody"), {}))
    assert Authenticator(None, MODELS).is_operator({"x-router-tenant": "t"}), "without keys the service is open"
