"""A silent stream is kept alive, with nothing that a client would read, and without giving up another attempt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.models import TimeoutsConfig
from apportion.deployments.ingress.client import KEEP_ALIVE, Client
from apportion.router.batch.messages import Decision, Ending, RouteItem
from apportion.router.errors import UnavailableError
from apportion.router.unpriced import Unpriced
from tests.deployments.ingress.dispatching import (
    PATH,
    Browser,
    StubLink,
    dispatching,
    parsed,
    serving,
    simulated,
    streaming,
)


async def never() -> AsyncIterator[bytes]:
    await asyncio.sleep(30)
    yield b""


async def half_an_event() -> AsyncIterator[bytes]:
    yield b'data: {"x'
    await asyncio.sleep(0.3)
    yield b'": 1}\n\n'


async def browse(
    link: StubLink, *, stream: bool = True, first_token_s: float | None = 30.0, **config: float
) -> Browser:
    browser = Browser()
    async with dispatching(link, TimeoutsConfig(first_token_s=first_token_s), **config) as dispatcher:
        client = Client(browser.send, path=PATH)
        await dispatcher.serve(parsed(stream=stream), PATH, client)
    return browser


async def test_a_stream_is_kept_alive_before_its_first_token_and_between_two() -> None:
    async with serving(simulated(tokens=2, first_token_s=0.5, token_s=0.5)) as engine:
        link = StubLink(engine.url)
        browser = await browse(link, keep_alive_s=0.1)
    assert browser.status == 200
    assert browser.headers["x-router-model"] == "small"
    before, between, *_ = browser.body.split(b"data: ")
    assert before.count(KEEP_ALIVE) >= 2
    assert between.count(KEEP_ALIVE) >= 2
    assert browser.body.replace(KEEP_ALIVE, b"").startswith(b"data: {")
    assert browser.body.endswith(b"data: [DONE]\n\n")
    assert [done.ending for done in link.done] == [Ending.answered]
    assert link.done[0].cost_usd


@pytest.mark.parametrize(
    ("stream", "config"), [(True, {"keep_alive_s": None}), (True, {}), (False, {"keep_alive_s": 0.1})]
)
async def test_only_silent_streams_are(stream: bool, config: dict) -> None:
    async with serving(simulated(tokens=2, first_token_s=0.3)) as engine:
        browser = await browse(StubLink(engine.url), stream=stream, **config)
    assert KEEP_ALIVE not in browser.body


async def test_no_comment_stands_within_an_event() -> None:
    async with serving(streaming(half_an_event)) as engine:
        browser = await browse(StubLink(engine.url), keep_alive_s=0.1)
    assert b'data: {"x": 1}\n\n' in browser.body


async def test_an_engine_that_says_nothing_still_costs_another_attempt_on_any_model() -> None:
    async with serving(streaming(never)) as hung, serving(simulated(tokens=2)) as good:
        link = StubLink(hung.url, good.url)
        browser = await browse(link, keep_alive_s=0.1, first_token_s=0.4)
    assert browser.body.startswith(KEEP_ALIVE)
    assert browser.body.replace(KEEP_ALIVE, b"").count(b"data: {") == 2
    assert [done.ending for done in link.done] == [Ending.engine_failed, Ending.answered]
    assert [item.ask.models for item in link.asked] == [None, None]
    assert [bool(item.avoid_replicas) for item in link.asked] == [False, True]


async def test_whatever_fails_after_the_first_comment_is_an_event() -> None:
    class NoMore(StubLink):
        async def plan(self, item: RouteItem, forecast: Unpriced) -> Decision:
            if self.asked:
                raise UnavailableError("no replica of small is ready; try again in some seconds")
            return await super().plan(item, forecast)

    async with serving(streaming(never)) as hung:
        browser = await browse(NoMore(hung.url), keep_alive_s=0.1, first_token_s=0.3)
    assert browser.status == 200
    error, done, end = browser.body.replace(KEEP_ALIVE, b"").split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "unavailable"
    assert (done, end) == (b"data: [DONE]", b"")


async def test_a_second_engines_refusal_is_an_event_too() -> None:
    async def refuse(_: Request) -> Response:
        return JSONResponse({"error": {"message": "too hot", "param": "temperature"}}, status_code=400)

    refusing = Starlette(routes=[Route(PATH, refuse, methods=["POST"])])
    async with serving(streaming(never)) as hung, serving(refusing) as second:
        browser = await browse(StubLink(hung.url, second.url), keep_alive_s=0.1, first_token_s=0.3)
    error, *_ = browser.body.replace(KEEP_ALIVE, b"").split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == "too hot"


async def test_until_an_engine_has_taken_it_a_failure_has_a_status() -> None:
    async def fail(_: Request) -> Response:
        await asyncio.sleep(0.3)
        return JSONResponse({"error": {"message": "x"}}, status_code=500)

    async with serving(Starlette(routes=[Route(PATH, fail, methods=["POST"])])) as bad:
        with pytest.raises(UnavailableError):
            await browse(StubLink(bad.url), keep_alive_s=0.1, retries=0)
