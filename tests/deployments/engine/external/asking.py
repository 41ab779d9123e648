"""An external model's port, asked as ingresses ask it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.engine.external.backend import ExternalEngine
from apportion.deployments.engine.server import EngineServer
from tests.deployments.fake_provider import NANO_CACHED, NANO_INPUT, NANO_OUTPUT, Running

CHAT = "/v1/chat/completions"
ENDPOINTS = ["chat", "completions", "responses", "messages"]


def external_model(provider: Running, *, max_num_seqs: int = 64, name: str = "big", **external: Any) -> ModelConfig:
    """The fake provider's model; its key stands in the environment."""
    described = {
        "base_url": provider.base_url,
        "model": "vendor-1",
        "api_key_env": "FAKE_KEY",
        "endpoints": ENDPOINTS,
        **external,
    }
    return ModelConfig.model_validate(
        {
            "name": name,
            "engine": "external",
            "input_usd_per_million": NANO_INPUT / 1e3,
            "cached_input_usd_per_million": NANO_CACHED / 1e3,
            "output_usd_per_million": NANO_OUTPUT / 1e3,
            "max_model_len": 100_000,
            "max_num_seqs": max_num_seqs,
            "external": described,
        }
    )


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    @property
    def nano(self) -> int:
        """What it says that it cost."""
        text = self.headers.get("x-router-settled-cost-usd")
        if text is None:
            text = self.body.decode().split(": x-router-settled-cost-usd ")[1].split()[0]
        return round(float(text) * 1e9)


class Asker:
    def __init__(self, engine: ExternalEngine, server: EngineServer, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.server = server
        self.session = session

    async def ask(self, path: str = CHAT, marks: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        body = {
            "model": "big",
            **({"messages": [{"role": "user", "content": "one two"}]} if path == CHAT else {}),
        } | fields
        headers = {"x-request-id": "r1", **(marks or {})}
        async with self.session.post(self.server.url + path, json=body, headers=headers) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())


@contextlib.asynccontextmanager
async def asker(model: ModelConfig) -> AsyncIterator[Asker]:
    engine = await ExternalEngine.start(model)
    server = EngineServer(engine.app, "127.0.0.1")
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield Asker(engine, server, session)
    await server.stop()
    engine.close()
    await engine._closing
