"""What an ingress tells Prometheus, who may see it, and what it counts of requests that come no further."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request

from apportion.deployments.config.service import parse_config
from apportion.deployments.ingress.metrics_page import STALE_S, MetricsPage, targets
from apportion.router.errors import AuthenticationError, PermissionDeniedError
from tests.deployments.ingress.dispatching import PATH, simulated
from tests.deployments.ingress.front import CONFIG, chat_body, ingress_before, ingress_of
from tests.deployments.local_router import LocalService, configuration, keys_file
from tests.deployments.observability.scraped import Scraped
from tests.router.batch.plain_room import Clock

DOWN = b"# HELP apportion_up 1 if the router answers; where it is 0 nothing else is told.\n# TYPE apportion_up gauge\n"


def asked(**headers: str) -> Request:
    return Request({"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]})


async def test_the_router_is_asked_once_a_second_however_many_ask() -> None:
    calls = 0

    async def ask() -> bytes:
        nonlocal calls
        calls += 1
        return b"%d" % calls

    clock = Clock()
    page = MetricsPage(ask, clock)

    assert await asyncio.gather(*(page.text() for _ in range(10))) == [b"1"] * 10
    clock.now_s += 1.0
    assert await page.text() == b"2"


async def test_without_a_router_it_says_so_and_nothing_else() -> None:
    async def fail() -> bytes:
        raise ConnectionError("gone")

    assert await MetricsPage(fail).text() == DOWN + b"apportion_up 0.0\n"


async def test_numbers_of_a_router_that_is_silent_since_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.deployments.ingress.metrics_page.TIMEOUT_S", 0.01)
    silent = False

    async def ask() -> bytes:
        if silent:
            await asyncio.Event().wait()
        return b"numbers"

    clock = Clock()
    page = MetricsPage(ask, clock)
    assert await page.text() == b"numbers"
    silent = True
    clock.now_s += STALE_S + 1

    assert (await page.text()).endswith(b"apportion_up 0.0\n")


def test_engines_are_discovered_by_their_models() -> None:
    replicas = {name: {"model": name[:-1], "url": f"http://10.0.0.1:{port}"} for name, port in (("b1", 2), ("a1", 1))}
    replicas["a2"] = {"model": "a", "url": "http://[::1]:3"}

    assert targets({"replicas": replicas}) == [
        {"targets": ["10.0.0.1:1", "[::1]:3"], "labels": {"model": "a"}},
        {"targets": ["10.0.0.1:2"], "labels": {"model": "b"}},
    ]
    assert targets({}) == []


async def test_with_keys_only_operators_see_it(tmp_path: Path) -> None:
    keys = keys_file(tmp_path / "keys.yaml", {"name": "plain"}, {"name": "boss", "operator": True})

    class Router:
        """Answers whatever is asked of it."""

        def __getattr__(self, name: str) -> Any:
            return self

        async def remote(self, *_: Any) -> Any:
            return b"numbers"

    async with ingress_of(parse_config(CONFIG | {"keys": keys}), Router()) as front:
        answer = await front.ingress.metrics(asked(authorization="Bearer boss"))
        assert (answer.body, answer.media_type.split(";")[0]) == (b"numbers", "text/plain")
        for ask in (front.ingress.metrics, front.ingress.metrics_targets):
            with pytest.raises(PermissionDeniedError, match="operator: true"):
                await ask(asked(authorization="Bearer plain"))
            with pytest.raises(AuthenticationError):
                await ask(asked())


async def test_a_routers_own_page_is_what_is_told() -> None:
    service = LocalService(configuration(None))
    await service.announce()

    page = Scraped((await MetricsPage(service.router.metrics).text()).decode())
    discovered = targets(await service.router.state())
    await service.close()

    assert page.value("apportion_up") == 1
    assert {one["labels"]["model"] for one in discovered} == {"wren", "finch", "lark", "heron"}


async def test_what_is_refused_at_the_door_is_counted_by_its_code(tmp_path: Path) -> None:
    keys = keys_file(tmp_path / "keys.yaml", {"name": "k"})
    known = {"authorization": "Bearer k"}
    async with (
        ingress_before(simulated(), keys=keys, ingress={"max_body_bytes": 1024}) as front,
        aiohttp.ClientSession(front.server.url) as session,
    ):

        async def status(body: bytes, headers: dict[str, str]) -> int:
            async with session.post(PATH, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status

        assert [await status(chat_body(), known), await status(chat_body(), {}), await status(b"{", known)] == [
            200,
            401,
            400,
        ]
        assert await status(b" " * 2000, known) == 413
        assert front.ingress._parts.lines.link.unserved.totals == {
            "invalid_api_key": 1,
            "invalid_request": 1,
            "payload_too_large": 1,
        }
