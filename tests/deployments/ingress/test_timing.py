"""Routing by time over HTTP: a real ingress, a real Router, and simulated engines of two speeds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from apportion.deployments.wire.headers import verdict_json
from apportion.router.batch.messages import EngineReplica, RouteItem
from tests.deployments.ingress.dispatching import serving, simulated
from tests.deployments.ingress.front import ingress_of
from tests.deployments.local_router import NAMES, close_router, configuration, expected, handle_of, make_router

SLOW, TOKEN_S, TOKENS = "heron", 0.03, 10
CHAT = {"messages": [{"role": "user", "content": "What is 2 plus 3?"}], "max_tokens": TOKENS}


@contextlib.asynccontextmanager
async def running(**routing: float) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """Heron is the best model, and takes 0.3 s; the others answer at once."""
    router = make_router(config := configuration(None, routing=routing))
    async with serving(simulated(token_s=TOKEN_S)) as slow, serving(simulated()) as fast:
        for name in NAMES:
            url = slow.url if name == SLOW else fast.url
            await router.announce(EngineReplica(f"{name}-0", name, url, 8))
        async with (
            ingress_of(config, handle_of(router)) as front,
            httpx.AsyncClient(base_url=front.server.url, timeout=30) as client,
        ):
            try:
                yield client, router
            finally:
                await close_router(router)


async def chat(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    answer = await client.post("/v1/chat/completions", json=CHAT | fields, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def planned(router: Any) -> dict[str, Any]:
    """As `/v1/route` tells it."""
    item = RouteItem("planned", max_tokens=TOKENS)
    (verdict,) = await router.route([item], expected(item))
    return verdict_json(0, verdict)


async def test_speeds_are_learned_of_answers_and_requests_that_are_in_haste_go_by_them() -> None:
    async with running() as (client, router):
        first = await chat(client)
        assert first.headers["x-router-model"] == SLOW
        assert "x-router-predicted-seconds" not in first.headers, "nobody knows yet"
        for stream in (True, False, True):
            for name in (SLOW, "wren"):
                await chat(client, model=name, stream=stream)

        known = await chat(client, model=SLOW)
        # DearIsGood expects half of what an answer may have; Router and ingress are in the time as well.
        assert float(known.headers["x-router-predicted-seconds"]) > 0.4 * TOKENS * TOKEN_S
        hasty = await chat(client, {"x-router-max-seconds": "0.1"})
        assert hasty.headers["x-router-model"] != SLOW
        patient = await chat(client, routing={"max_seconds": 30}, headers={"x-router-max-seconds": "0.1"})
        assert patient.headers["x-router-model"] == SLOW

        plan = await planned(router)
        seconds = {one["model"]: one["predicted_seconds"] for one in plan["candidates"]}
        assert plan["predicted_seconds"] == seconds[plan["model"]]
        assert seconds[SLOW] > seconds["wren"] > 0
        assert seconds["lark"] is None
        state = await router.state()
        assert state["tokens_per_s"][SLOW] == pytest.approx(1 / TOKEN_S, rel=0.6)
        assert state["tokens_per_s"]["wren"] > state["tokens_per_s"][SLOW]


async def test_a_weight_of_seconds_moves_requests_to_faster_models_and_not_what_is_told_of_success() -> None:
    async with running(latency_weight_per_s=1.0) as (client, router):
        for name in (SLOW, "lark"):
            for _ in range(3):
                await chat(client, model=name)
        answer = await chat(client)
        assert answer.headers["x-router-model"] != SLOW
        plan = await planned(router)
        chosen = next(one for one in plan["candidates"] if one["model"] == plan["model"])
        assert (
            plan["success"]
            == chosen["success"]
            < next(one["success"] for one in plan["candidates"] if one["model"] == SLOW)
        )
