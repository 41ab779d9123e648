"""Router, replicas and an ingress's dispatcher in this process, the fake provider in its own: only Serve is played."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.service import DispatchConfig, parse_config
from apportion.deployments.ingress.client import Client
from apportion.deployments.ingress.dispatch import Dispatcher
from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.wire.errors import error_response
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.prompt import Prompt
from apportion.router.errors import ApportionError
from apportion.router.unpriced import Unpriced
from tests.deployments.engine.replicas import start_replica
from tests.deployments.ingress.dispatching import PATH, Browser
from tests.deployments.local_router import Line, close_router, forecast_of, make_router

OWN = {
    "name": "wren",
    "source": "x",
    "engine": "simulated",
    "simulated": {"tokens": 4, "first_token_s": 0.05, "token_s": 0.01},
    "input_usd_per_million": 0.1,
    "output_usd_per_million": 0.1,
    "max_model_len": 100_000,
    "max_num_seqs": 64,
}


@dataclass
class Whole:
    """A service with one model of its own, `wren`, which is not as good as somebody else's, `heron`."""

    router: Any
    engines: list[Any]
    dispatcher: Dispatcher
    names: tuple[str, ...]

    async def ask(self, timeout_s: float = 30.0, **fields: Any) -> Browser:
        """One request; of an error its status and its envelope."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "one two three"}]} | fields
        body["routing"] = {"timeout_s": timeout_s} | body.get("routing", {})
        browser = Browser()
        request = parse("chat", json.dumps(body).encode(), {}, Rules(self.names))
        try:
            await self.dispatcher.serve(request, PATH, Client(browser.send))
        except ApportionError as error:
            response = error_response(error)
            browser.status, browser.body = response.status_code, bytes(response.body)
            browser.headers = dict(response.headers)
        return browser

    async def spent_nano(self, model: str = "heron") -> int:
        """What the ledger says of a model, once nothing is set aside."""
        limits = (await self.settled())["budget"]["limits"]
        return next(round(1e9 * one["spent_usd"]) for one in limits if one["name"] == model)

    async def settled(self) -> dict[str, Any]:
        """The router's state, once nothing is in flight or set aside; nobody says what was left costs."""
        unsettled = self.router._reservations._unsettled
        async with asyncio.timeout(20):
            while True:
                for request_id, (replica, _) in unsettled._held.items():
                    unsettled._held[request_id] = replica, float("-inf")
                self.router._reservations.charge_overdue()
                await self.router._reservations.spending.flush()
                state: dict[str, Any] = await self.router.state()
                budget = state["budget"]
                if state["in_flight"] == 0 and budget["age_s"] == 0 and budget["reserved_usd"] == 0:
                    return state
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def whole(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *external: ModelConfig, own: bool = True, retries: int = 2
) -> AsyncIterator[Whole]:
    """The service with the models of somebody else's behind its own."""
    models = [*([ModelConfig.model_validate(OWN)] if own else []), *external]
    config = parse_config(
        {
            "models": [model.model_dump() for model in models],
            "predictor": {"artefact": "zoo:predictor"},
            "router": {"host": "127.0.0.1"},
            "budget": {
                "database": f"sqlite:///{folder / 'money.db'}",
                "limits": [{"scope": "model", "window": "total", "usd": 1000.0}],
            },
        }
    )
    router = make_router(config)
    router._scheduler._decider._settled_s = 0.0
    engines = [
        await start_replica(monkeypatch, router, model.of_group(group), f"{model.name}#{group.name}")
        for model in config.models
        for group in model.groups
    ]
    link = Line(router.exchange)

    async def expect(item: RouteItem, prompt: Prompt) -> Unpriced:
        unpriced = forecast_of([prompt], config.names)
        return unpriced.with_input(np.full((1, len(config.names)), 100))  # simulated engines count characters

    dispatcher = Dispatcher(link, expect, DispatchConfig(retries=retries), {})
    yield Whole(router, engines, dispatcher, config.names)
    for engine in engines:
        await engine.leave()
    await link.close()
    await dispatcher.close()
    await close_router(router)
