"""A simulated engine: canned answers at set times. For measuring the router alone; it never stands in for a model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from apportion.deployments.config.models import ModelConfig, SimulatedConfig
from apportion.deployments.wire.asgi import disconnected
from apportion.deployments.wire.settlement import price_of, settled_comment, settled_header


class SimulatedEngine:
    """Speaks the same HTTP as a real engine, word for word the same answer every time."""

    def __init__(self, model: ModelConfig) -> None:
        if model.simulated is None:
            raise ValueError("a simulated engine needs its timings")
        self._model = model
        self._timings: SimulatedConfig = model.simulated
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completion, methods=["POST"]),
            ]
        )

    @classmethod
    async def start(cls, model: ModelConfig) -> SimulatedEngine:
        return cls(model)

    def check_health(self) -> None:
        """Nothing can break."""

    def close(self) -> None:
        """Nothing to free."""

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        body = await request.json()
        prompt_tokens = len(json.dumps(body.get("messages") or body.get("prompt")))
        tokens = min(self._timings.tokens, body.get("max_tokens") or self._timings.tokens)
        cost_usd = price_of(request.headers, self._model.price).cost_usd(prompt_tokens, tokens)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
        }
        if body.get("stream"):
            return StreamingResponse(
                self._stream(tokens, cost_usd, usage, body, chat=chat), media_type="text/event-stream"
            )
        await _wait(request, self._timings.first_token_s + (tokens - 1) * self._timings.token_s)
        choice = {"index": 0, "finish_reason": "stop"} | _text(self._timings.answer, "message", chat=chat)
        answer = self._envelope("chat.completion" if chat else "text_completion", [choice]) | {"usage": usage}
        return Response(json.dumps(answer), media_type="application/json", headers=dict([settled_header(cost_usd)]))

    async def _stream(
        self, tokens: int, cost_usd: float, usage: dict[str, int], body: dict[str, Any], *, chat: bool
    ) -> AsyncIterator[str]:
        kind = "chat.completion.chunk" if chat else "text_completion"
        await asyncio.sleep(self._timings.first_token_s)
        for i in range(tokens):
            if i and self._timings.token_s:
                await asyncio.sleep(self._timings.token_s)
            finish = "stop" if i == tokens - 1 else None
            choice = {"index": 0, "finish_reason": finish} | _text(f"word{i} ", "delta", chat=chat)
            yield _event(self._envelope(kind, [choice]))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(self._envelope(kind, []) | {"usage": usage})
        yield settled_comment(cost_usd)
        yield "data: [DONE]\n\n"

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": "simulated",
            "object": kind,
            "created": int(time.time()),
            "model": self._model.name,
            "choices": choices,
        }


async def _wait(request: Request, seconds: float) -> None:
    """Takes its time, or ends when the client leaves, as a real engine does."""
    if seconds:
        gone = asyncio.create_task(disconnected(request.receive))
        await asyncio.wait({gone}, timeout=seconds)
        gone.cancel()


def _text(text: str, role_field: str, *, chat: bool) -> dict[str, Any]:
    return {role_field: {"role": "assistant", "content": text}} if chat else {"text": text}


def _event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload, separators=(',', ':'))}\n\n"
