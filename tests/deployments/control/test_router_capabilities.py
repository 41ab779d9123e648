"""Tool parsing on one model of four: calls go there, whatever else is better."""

from __future__ import annotations

import json

from apportion.deployments.ingress.openai import parse
from apportion.deployments.ingress.rules import Rules
from tests.deployments.local_router import NAMES, LocalService, configuration

TOOLS = [{"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}}]
PARSER = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}


async def test_tools_go_where_calls_are_parsed() -> None:
    config = configuration(None)
    wren = config.models[0].model_copy(update={"engine_args": PARSER})
    service = LocalService(config.model_copy(update={"models": (wren, *config.models[1:])}))

    async def ask(prompt: object, **fields: object) -> str:
        body = {"max_tokens": 16, "messages": [{"role": "user", "content": prompt}], **fields}
        return await service.run(parse("chat", json.dumps(body).encode(), {}, Rules(NAMES)).item)

    try:
        called = [await ask(f"How many bolts in box {i}?", tools=TOOLS) for i in range(20)]
        assert called == ["wren"] * 20
        assert {await ask(f"How many in {i}?", tools=TOOLS, tool_choice="none") for i in range(5)} != {"wren"}
        assert await ask("How many?", tools=TOOLS, model="heron") == "invalid_request"
        assert await ask("How many?", reasoning_effort="high") == "invalid_request"
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
        assert await ask([{"type": "text", "text": "What is shown?"}, picture]) == "invalid_request"
    finally:
        await service.close()
