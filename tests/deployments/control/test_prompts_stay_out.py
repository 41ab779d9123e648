"""How much the router gets and holds, however long prompts are."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from apportion.deployments.wire.packing import pack, unpack
from apportion.router.batch.messages import Reply, Report
from tests.deployments.local_router import NAMES, Line, LocalService, configuration

COUNT = 32
MOST_BYTES = 400  # of a request on its way; of a table of four models 96, of a conversation's turn some 150
SHORT, LONG = 10, 1 << 20
SERVED = len(NAMES)  # a slot each; the others wait


def chat(length: int) -> dict[str, Any]:
    said = [{"role": "user", "content": "x" * (length // 20)}, {"role": "assistant", "content": "y"}] * 10
    return {"messages": [*said, {"role": "user", "content": "x" * (length // 2)}], "max_tokens": 10}


def completion(length: int) -> dict[str, Any]:
    return {"prompt": "x" * length, "max_tokens": 10}


async def told_and_held(kind: Any, body: dict[str, Any]) -> tuple[float, float]:
    """Bytes that the router is told and holds of a request that waits."""
    service = LocalService(
        configuration(None, slots=1, predictor={"artefact": "zoo:predictor", "max_call_chars": 2 * LONG})
    )
    await service.announce()
    told: list[int] = []

    async def exchange(report: Report, wait: bool) -> Reply:
        data = pack((report, wait))
        if report.items:
            told.append(len(data))
        return await service.router.exchange(*unpack(data))

    line = Line(exchange)
    requests = [parse(kind, json.dumps(body).encode(), {"x-session-id": "s"}, Rules(NAMES)) for _ in range(COUNT)]
    expected = [await service.forecaster.forecast(one.item, one.prompt) for one in requests]
    plans = [asyncio.create_task(line.plan(one.item, of)) for one, of in zip(requests, expected, strict=True)]
    async with asyncio.timeout(10):
        while sum(len(session.undecided) for session in service.router._exchanges._sessions.values()) != COUNT - SERVED:
            await asyncio.sleep(0.01)
    held = len(pack([session.undecided for session in service.router._exchanges._sessions.values()]))
    for plan in plans:
        plan.cancel()
    await asyncio.gather(*plans, return_exceptions=True)
    await line.close()
    await service.close()
    return sum(told) / COUNT, held / (COUNT - SERVED)


@pytest.mark.parametrize(("kind", "body"), [("chat", chat), ("completion", completion)])
async def test_it_is_told_and_holds_the_same_of_megabytes_as_of_ten_characters(kind: Any, body: Any) -> None:
    short, long = [await told_and_held(kind, body(length)) for length in (SHORT, LONG)]
    assert long[0] < 1.3 * short[0]  # a long conversation has more beginnings than one of ten characters
    assert long[1] < 1.3 * short[1]
    assert long[0] < MOST_BYTES
