"""A simulated engine: canned answers at set times. For measuring the router alone; it never stands in for a model."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.simulated import SimulatedConfig
from apportion.deployments.engine.meter import Meter, Usage, current_usage
from apportion.deployments.engine.simulated_signals import simulated_confidence
from apportion.deployments.wire.asgi import disconnected
from apportion.deployments.wire.engine_headers import REQUEST_HEADER
from apportion.deployments.wire.settlement import Settled, settled_comment, settled_headers
from apportion.router.errors import UnknownModelError
from apportion.router.prediction.conversation import template_variables
from apportion.router.signals import Signals

CLIENT_LEFT = 499  # nobody reads it
DIMENSIONS = 8


class SimulatedEngine:
    """Speaks the same HTTP as a real engine, word for word the same answer every time, or one of two."""

    def __init__(self, model: ModelConfig) -> None:
        if model.simulated is None:
            raise ValueError("a simulated engine needs its timings")
        self._model = model
        self._timings: SimulatedConfig = model.simulated
        self._prompts: deque[str] = deque(maxlen=model.simulated.cached_prompts)
        played = (
            {"/v1/embeddings": self._embeddings}
            if model.all_capabilities.embeddings
            else {"/v1/chat/completions": self._chat, "/v1/completions": self._completion}
        )
        routes = [Route(path, answer, methods=["POST"]) for path, answer in played.items()]
        routes.append(Route("/{path:path}", _elsewhere, methods=["POST"]))
        self.app = Meter(Starlette(routes=routes), model.price)

    @classmethod
    async def start(cls, model: ModelConfig) -> SimulatedEngine:
        return cls(model)

    @property
    def slots(self) -> int:
        """Sequences that it runs at once."""
        return self._model.max_num_seqs

    @property
    def trouble(self) -> None:
        """Nothing lies behind it."""

    def check_health(self) -> None:
        """Nothing can break."""

    async def probe(self) -> None:
        """Nothing can be stuck."""
        self.app.sign()

    def close(self) -> None:
        """Nothing to free."""

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, chat=True)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, chat=False)

    async def _embeddings(self, request: Request) -> Response:
        """The same vector for every text; of a text each character counts as a token, of ids each one."""
        body = await request.json()
        given = body["input"]
        texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        tokens = sum(map(len, texts))
        used = current_usage()
        used.read("", "", tokens)
        if not await _wait(request, self._pause_s(0)):
            return Response(status_code=CLIENT_LEFT)
        self.app.sign()
        vector: list[float] | str = [1.0] + [0.0] * ((body.get("dimensions") or DIMENSIONS) - 1)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(array("f", vector).tobytes()).decode()
        data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(texts))]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "model": self._model.name, "data": data, "usage": usage}
        headers = settled_headers(used.settle(tokens, 0))
        return Response(json.dumps(answer), media_type="application/json", headers=headers)

    async def _answer(self, request: Request, *, chat: bool) -> Response:
        body = await request.json()
        name = f"{'chatcmpl' if chat else 'cmpl'}-{request.headers.get(REQUEST_HEADER, 'simulated')}"
        prompt = json.dumps(body.get("messages") or body.get("prompt"))
        prompt_tokens, cached_tokens = len(prompt), self._cached_tokens(prompt)
        tokens = self._timings.tokens + self._thought(body)
        tokens = min(tokens, body.get("max_tokens") or tokens)
        used = current_usage()
        used.read("", "", prompt_tokens)
        used.from_cache("", cached_tokens)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
        text, signals = self._played(prompt, used)
        if body.get("stream"):
            events = self._stream(name, tokens, used, usage, body, signals, chat=chat)
            return StreamingResponse(events, media_type="text/event-stream")
        for i in range(tokens):
            if not await _wait(request, self._pause_s(i)):
                return Response(status_code=CLIENT_LEFT)
            self._generated(used)
        settled = _settle(used, prompt_tokens, tokens, signals)
        choice = {"index": 0, "finish_reason": "stop"} | _text(text, "message", chat=chat)
        answer = self._envelope(name, "chat.completion" if chat else "text_completion", [choice]) | {"usage": usage}
        return Response(json.dumps(answer), media_type="application/json", headers=settled_headers(settled))

    def _played(self, prompt: str, used: Usage) -> tuple[str, Signals | None]:
        """The text of a whole answer, and how sure the engine is of it, where somebody asks."""
        if (played := self._timings.signals) is None:
            return self._timings.answer, None
        right, signals = simulated_confidence(played, self._model.name, prompt)
        return self._timings.answer if right else played.wrong_answer, signals if used.signals_asked else None

    async def _stream(
        self,
        name: str,
        tokens: int,
        used: Usage,
        usage: dict[str, Any],
        body: dict[str, Any],
        signals: Signals | None,
        *,
        chat: bool,
    ) -> AsyncIterator[str]:
        kind = "chat.completion.chunk" if chat else "text_completion"
        for i in range(tokens):
            if pause_s := self._pause_s(i):
                await asyncio.sleep(pause_s)
            self._generated(used)
            finish = "stop" if i == tokens - 1 else None
            choice = {"index": 0, "finish_reason": finish} | _text(f"word{i} ", "delta", chat=chat)
            yield _event(self._envelope(name, kind, [choice]))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(self._envelope(name, kind, []) | {"usage": usage})
        yield settled_comment(_settle(used, usage["prompt_tokens"], tokens, signals))
        yield "data: [DONE]\n\n"

    def _thought(self, body: dict[str, Any]) -> int:
        """Tokens before the answer."""
        if not template_variables(body).get("enable_thinking"):
            return 0
        most, budget = self._timings.thinking_tokens, body.get("thinking_token_budget")
        return most if budget is None else min(most, budget)

    def _cached_tokens(self, prompt: str) -> int:
        """How much of the prompt's beginning it has read before."""
        found = max((len(os.path.commonprefix([prompt, one])) for one in self._prompts), default=0)  # noqa: RUF071 (text)
        self._prompts.append(prompt)
        return found

    def _pause_s(self, token: int) -> float:
        return self._timings.token_s if token else self._timings.first_token_s

    def _generated(self, used: Usage) -> None:
        used.generated(1)
        self.app.sign()

    def _envelope(self, name: str, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": name,
            "object": kind,
            "created": int(time.time()),
            "model": self._model.name,
            "choices": choices,
        }


async def _elsewhere(request: Request) -> Response:
    """404: a played engine has nothing to say in other APIs; requests that its ingress has read do not come here."""
    error = UnknownModelError(f"this simulated engine does not answer at {request.url.path}")
    return JSONResponse(error.envelope(), status_code=error.status)


def _settle(used: Usage, prompt_tokens: int, tokens: int, signals: Signals | None) -> Settled:
    return used.settle(prompt_tokens, tokens)._replace(signals=signals)


async def _wait(request: Request, seconds: float) -> bool:
    """Takes its time, or ends when the client leaves, as a real engine does; whether it is still there."""
    if not seconds:
        return True
    gone = asyncio.create_task(disconnected(request.receive))
    left, _ = await asyncio.wait({gone}, timeout=seconds)
    gone.cancel()
    return not left


def _text(text: str, role_field: str, *, chat: bool) -> dict[str, Any]:
    return {role_field: {"role": "assistant", "content": text}} if chat else {"text": text}


def _event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload, separators=(',', ':'))}\n\n"
