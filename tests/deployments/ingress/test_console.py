"""The console: what its page shows in a browser, who may see it, and what it costs the router."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.ingress.console import console
from apportion.deployments.ingress.console.page import console_page
from apportion.deployments.ingress.ingress import api
from apportion.deployments.keys.keyring import new_key
from apportion.deployments.wire.bulk import JobTold, RunnerReport
from apportion.router.batch.messages import EngineReplica
from tests.deployments.browser import chromium, page_at
from tests.deployments.ingress.dispatching import PATH, serving, simulated
from tests.deployments.ingress.front import Front, chat_body, ingress_before
from tests.deployments.ingress.whole import whole_service
from tests.deployments.local_router import NAMES, configuration, keys_file

WIDTHS = {1280: 900, 390: 844}
TEXT = "document.body.innerText"
browser = pytest.mark.skipif(chromium() is None, reason="needs the package chromium (`make chromium`)")


@asynccontextmanager
async def service(config: ServiceConfig) -> AsyncIterator[Front]:
    async with serving(simulated()) as engine:
        replicas = [EngineReplica(f"{name}#1", name, engine.url, 2) for name in NAMES]
        async with whole_service(config, replicas) as front:
            yield front


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PERIOD_S", 0.1)


async def ask(front: Front, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=front.server.url) as client:
        return await client.post(PATH, content=chat_body(**fields), headers=headers or {})


@asynccontextmanager
async def events(front: Front, headers: dict[str, str] | None = None) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with (
        httpx.AsyncClient(base_url=front.server.url) as client,
        client.stream("GET", "/console/events", headers=headers or {}) as answer,
    ):
        assert (answer.status_code, answer.headers["content-type"][:17]) == (200, "text/event-stream")

        async def told() -> AsyncIterator[dict[str, Any]]:
            async for line in answer.aiter_lines():
                if line:
                    yield json.loads(line.removeprefix("data: "))

        yield told()


async def refused(front: Front, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    async with httpx.AsyncClient(base_url=front.server.url) as client:
        answer = await client.get(path, headers=headers or {})
    return answer.status_code, answer.json()["error"]["message"]


def keyed(tmp_path: Path, *names: str, **fields: Any) -> tuple[dict[str, str], list[str]]:
    """The section of a file of keys, and the keys themselves."""
    keys = [new_key() for _ in names]
    entries = [{"name": name, "sha256": digest, **fields} for name, (_, digest) in zip(names, keys, strict=True)]
    return keys_file(tmp_path / "keys.yaml", *entries), [key for key, _ in keys]


@browser
async def test_the_page_shows_each_model_and_the_batches_that_were_planned(tmp_path: Path) -> None:
    limits = [{"scope": "service", "window": "day", "usd": 5.0}]
    routing = {"budget_usd_per_request": 1e-3, "pool_requests": 0}
    config = configuration(tmp_path / "b.db", budget={"limits": limits}, routing=routing)
    async with service(config) as front:
        answers = [await ask(front, max_tokens=5) for _ in range(3)]
        await ask(front, model="nobody")
        batch = dict(part.split("=") for part in answers[-1].headers["x-router-batch"].split("; "))
        async with page_at(f"{front.server.url}/console") as page:
            await page.until(f"document.querySelector('[data-batch=\"{batch['id']}\"]') !== null")
            shown = await page.evaluate("[...document.querySelectorAll('[data-model]')].map(row => row.dataset.model)")
            assert tuple(shown) == NAMES
            assert await page.evaluate("document.querySelectorAll('#strip [data-batch]').length") == 3
            chosen = await page.evaluate("document.getElementById('chosen').innerText")
            assert f"goes to\n{answers[-1].headers['x-router-model']} 1" in chosen
            assert "cap\n$0.00100" in chosen
            await page.until(f"{TEXT}.includes('all parts work') && {TEXT}.includes('model not found')")
            assert "the service, day" in await page.evaluate(TEXT)

            await page.evaluate("document.querySelector('#strip [aria-selected=true]').focus()")
            for key in ("Home", "ArrowRight"):
                await page.call("Input.dispatchKeyEvent", type="keyDown", key=key)
            second = dict(part.split("=") for part in answers[1].headers["x-router-batch"].split("; "))
            assert await page.evaluate("document.activeElement.dataset.batch") == second["id"]

            papers = set()
            for width, height in WIDTHS.items():
                for scheme in ("light", "dark"):
                    await page.look(width, height, scheme)
                    assert await page.evaluate("document.documentElement.scrollWidth") <= width
                    papers.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
                    assert (await page.screenshot()).startswith(b"\x89PNG")
            assert len(papers) == 2
            assert not page.said, "the page broke, or its policy kept something from it"


@browser
async def test_the_page_shows_jobs_as_their_runners_tell_of_them() -> None:
    async with service(configuration(None)) as front, page_at(f"{front.server.url}/console") as page:
        await page.until("document.querySelectorAll('[data-model]').length === 4")
        assert await page.evaluate("document.getElementById('jobs').hidden")
        job = JobTold("batch_1234567890", "in_progress", 2_000, 1_500, 3, 8, budget_usd=2.0, left_s=90.0, time_s=60.0)
        await front.router.router.bulk(RunnerReport("runner", (job,)))
        await page.until("!document.getElementById('jobs').hidden")
        shown = await page.evaluate("document.getElementById('jobs').innerText")
        for told in ("batch_12345678 · in progress", "1,500 of 2,000, 3 failed", "$0 of $2.00", "30 s too long"):
            assert told in shown
        assert not page.said


@browser
async def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(tmp_path: Path) -> None:
    keys, (key,) = keyed(tmp_path, "watcher", console=True)
    async with service(configuration(None, keys=keys)) as front, page_at(f"{front.server.url}/console") as page:
        for said, wanted in (("wrong", "this API key is not known here"), (key, None)):
            await page.until("!document.getElementById('door').hidden")
            await page.evaluate(f"document.getElementById('key').value = {json.dumps(said)}")
            await page.evaluate("document.getElementById('door').requestSubmit()")
            if wanted is not None:
                await page.until(f"document.getElementById('why').innerText.includes({json.dumps(wanted)})")
        await page.until("document.querySelectorAll('[data-model]').length === 4")
        assert await page.evaluate("sessionStorage.getItem('apportion.key')") == key
        assert await page.evaluate("localStorage.length + document.cookie.length") == 0
        assert key not in await page.evaluate("document.documentElement.outerHTML")


async def test_only_new_batches_are_told_again(quick: None) -> None:
    async with service(configuration(None)) as front:
        await ask(front, max_tokens=5)
        async with events(front) as told:
            first = await anext(told)
            assert (first["anew"], [batch["id"] for batch in first["batches"]]) == (True, [1])
            assert (await anext(told))["batches"] == []
            await ask(front, max_tokens=5)
            async with asyncio.timeout(5):
                while not (found := (await anext(told))["batches"]):
                    pass
            assert [batch["id"] for batch in found] == [2]


async def test_the_router_is_asked_once_however_many_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PERIOD_S", 60.0)
    async with service(configuration(None)) as front, AsyncExitStack() as open_:
        asked = 0
        ask_router = front.ingress._parts.console._ask

        async def counted() -> dict[str, Any]:
            nonlocal asked
            asked += 1
            return await ask_router()

        front.ingress._parts.console._ask = counted
        watching = [await open_.enter_async_context(events(front)) for _ in range(8)]
        assert len(await asyncio.gather(*map(anext, watching))) == 8
        assert asked == 1


async def test_no_more_look_than_may_and_a_place_is_free_again(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "MAX_VIEWERS", 2)
    async with service(configuration(None)) as front:
        async with events(front) as one, events(front) as other:
            await asyncio.gather(anext(one), anext(other))
            status, message = await refused(front, "/console/events")
            assert (status, message[:18]) == (429, "2 consoles are ope")
        async with asyncio.timeout(5):
            while front.ingress._parts.console._viewers:
                await asyncio.sleep(0.02)
        async with events(front) as again:
            assert (await anext(again))["anew"]


async def test_keys_say_who_may_look_and_for_how_long(quick: None, tmp_path: Path) -> None:
    keys, (watcher,) = keyed(tmp_path, "watcher", console=True)
    async with service(configuration(None, keys=keys)) as front:
        assert (await refused(front, "/console/events"))[0] == 401
        async with events(front, {"authorization": f"Bearer {watcher}"}) as told:
            assert (await anext(told))["anew"]
            keyed(tmp_path, "watcher", console=True)  # its key has changed
            async with asyncio.timeout(10):
                async for _ in told:
                    pass


async def test_other_keys_may_not_look(tmp_path: Path) -> None:
    keys, (caller,) = keyed(tmp_path, "caller")
    async with service(configuration(None, keys=keys)) as front:
        told = await refused(front, "/console/events", {"authorization": f"Bearer {caller}"})
        assert told == (403, "this API key may not see the console; have its permission `console` set")


async def test_it_can_be_turned_off() -> None:
    async with service(configuration(None, ingress={"console": False})) as front:
        assert {(await refused(front, path))[0] for path in ("/console", "/console/events")} == {404}


async def test_a_router_that_is_silent_is_told_of(quick: None) -> None:
    async with ingress_before(simulated()) as front, events(front) as told:  # its router knows no `console`
        assert await anext(told) == {"error": "the router does not answer"}


async def test_a_page_is_let_go_now_and_then(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "WATCH_S", 0.5)
    async with service(configuration(None)) as front, events(front) as told:
        async with asyncio.timeout(10):
            assert [one async for one in told]


async def test_a_page_that_takes_nothing_is_let_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "WATCH_S", 0.05)
    monkeypatch.setattr(console, "STALL_S", 0.05)
    async with service(configuration(None)) as front, asyncio.timeout(5):
        async with front.ingress._parts.console.watched(lambda: True):
            await asyncio.sleep(60)  # a send that waits for the page
        assert front.ingress._parts.console._viewers == 0


async def test_pages_need_nothing_from_elsewhere() -> None:
    transport = httpx.ASGITransport(api, root_path="/llm")
    async with httpx.AsyncClient(transport=transport, base_url="http://test/llm/") as client:
        docs = await client.get("docs")
    links = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", docs.text + console_page())
    assert set(links) == {"data:,", "/llm/openapi.json"}
    assert set(re.findall(r"https?://[^\s\"'`]+", docs.text + console_page())) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in docs.headers["content-security-policy"]
    assert all(f"/llm{path}" in docs.text for path in api.openapi()["paths"])
    assert console_page().count("\n") <= 420
