"""A real engine replica, Router and ingress's dispatcher in this process, over a real port: only Serve is played."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apportion.deployments.cluster.autoscaling import USED
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.service import DispatchConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.engine import replica as replica_module
from apportion.deployments.ingress.client import Client
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.openai import ParsedRequest, parse
from apportion.deployments.ingress.rules import Rules
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.errors import DeadlineError, UnavailableError
from apportion.router.unpriced import Unpriced
from tests.deployments.engine.replicas import start_replica
from tests.deployments.ingress.dispatching import PATH, Browser
from tests.deployments.local_router import NAMES, Line, configuration, expected, make_router

PROMPT_TOKENS = len(json.dumps([{"role": "user", "content": "hi"}]))
LIMIT = {"scope": "service", "window": "total", "usd": 1.0}


def asking(**fields: object) -> ParsedRequest:
    body = {"model": "wren", "messages": [{"role": "user", "content": "hi"}]} | fields
    return parse("chat", json.dumps(body).encode(), {}, Rules(NAMES))


async def expect(item: RouteItem, prompt: Prompt) -> Unpriced:
    return expected(item)


@dataclass
class Whole:
    """All of a service that has one replica."""

    router: Any
    engine: Any
    dispatcher: Dispatcher

    async def ask(self, timeout_s: float, *, stream: bool, tokens: int = 60) -> Browser:
        browser = Browser()
        with contextlib.suppress(DeadlineError):
            request = asking(stream=stream, max_tokens=tokens, routing={"timeout_s": timeout_s})
            await self.dispatcher.serve(request, PATH, Client(browser.send))
        return browser

    async def spent_usd(self) -> float:
        """What the ledger says once nothing is reserved."""
        async with asyncio.timeout(10):
            while True:
                budget = (await self.router.state())["budget"]
                if budget["reserved_usd"] == 0:
                    break
                await asyncio.sleep(0.1)
        return float(budget["spent_usd"])


@pytest.fixture
async def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Whole]:
    model = ModelConfig(
        name="wren",
        source="x",
        engine="simulated",
        simulated=SimulatedConfig(tokens=1000, token_s=0.02),
        input_usd_per_million=1,
        output_usd_per_million=10,
        max_model_len=1000,
    )
    config = configuration(tmp_path / "b.db", budget={"limits": [LIMIT]})
    config = config.model_copy(update={"models": (model, *config.models[1:])})
    router = make_router(config)
    router._scheduler._decider._settled_s = 0.0  # the other models never get a replica
    engine = await start_replica(monkeypatch, router, model, "wren#1")
    link = Line(router.exchange)
    dispatcher = Dispatcher(link, expect, DispatchConfig(retries=0), {})
    yield Whole(router, engine, dispatcher)
    await engine.leave()
    await link.close()
    await dispatcher.close()
    router._housekeeping.stop()
    await router._scheduler.drain()
    router._reservations.spending.close()


async def test_a_complete_answer_costs_what_it_says(whole: Whole) -> None:
    browser = await whole.ask(20.0, stream=False)
    assert await whole.spent_usd() == pytest.approx(float(browser.headers["x-router-settled-cost-usd"]), abs=1e-12)
    assert await whole.spent_usd() == pytest.approx((PROMPT_TOKENS + 60 * 10) / 1e6, abs=1e-9)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_given_up_costs_what_was_generated(whole: Whole, stream: bool) -> None:
    await whole.ask(2.0, stream=stream, tokens=900)  # for which the engine would need 18 s
    spent_usd = await whole.spent_usd()
    assert PROMPT_TOKENS / 1e6 < spent_usd < (PROMPT_TOKENS + 110 * 10) / 1e6
    (cost_usd,) = whole.engine._meter._ended.values()
    assert round(1e9 * spent_usd) == round(1e9 * cost_usd)


async def test_a_replica_that_gives_up_says_what_its_requests_have_cost(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    def end(_: int) -> None:
        ended.set()
        raise asyncio.CancelledError

    monkeypatch.setattr(replica_module.os, "_exit", end)
    asked = asyncio.create_task(whole.ask(20.0, stream=True))
    while not whole.engine._meter.sequences:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)

    def stuck() -> None:
        raise UnavailableError("stuck")

    whole.engine._watch.check = stuck
    browser = await asyncio.wait_for(asked, 5)
    assert b"error" in browser.body
    await asyncio.wait_for(ended.wait(), 5)
    assert PROMPT_TOKENS / 1e6 < await whole.spent_usd() < (PROMPT_TOKENS + 50 * 10) / 1e6
    assert (await whole.router.state())["replicas"] == {}


async def test_autoscaling_sees_sequences(whole: Whole) -> None:
    request = asking(n=32, max_tokens=30)
    work = asyncio.create_task(whole.dispatcher.serve(request, PATH, Client(Browser().send)))
    while not whole.engine._server.running:
        await asyncio.sleep(0.01)
    assert whole.engine.record_autoscaling_stats() == {USED: 0.5}
    await work
    told = [whole.engine.record_autoscaling_stats()[USED] for _ in range(2)]
    assert 0.0 < told[0] < 0.01, "it was busy since it was asked last, which keeps it from falling asleep"
    assert told[1] == 0.0


async def test_nobody_is_shown_an_engines_token(whole: Whole) -> None:
    token = whole.engine.where().token
    assert token
    assert token == whole.engine._server._token
    assert token not in repr(whole.engine._replica)
    assert token not in json.dumps(await whole.router.state())
