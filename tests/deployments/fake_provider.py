"""A fake provider: a process of its own that plays an OpenAI-compatible API with limits, faults, and a bill of its own.

`python -m tests.deployments.fake_provider` prints its port. No model answers here: an answer is words in a row.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.request import Request as Call
from urllib.request import urlopen

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-fake-0123456789abcdef"
NANO_INPUT, NANO_CACHED, NANO_OUTPUT = 2_500, 1_250, 10_000  # nano-USD a token
TOKEN_WINDOW_S = 6.0  # so many seconds' worth of tokens may come at once


@dataclass
class Behaviour:
    """What it does; everything can be set while it runs.

    `refusal` is how a 429 says when to come again: seconds, date, ms, reset, azure (nothing of use) or none.
    `error` answers everything with this status and `error_body`. `cut_after` chunks a stream breaks off.
    """

    keys: list[str] = field(default_factory=lambda: [KEY])
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    refusal: str = "seconds"
    tells_limits: bool = False
    tokens: int = 8
    first_token_s: float = 0.0
    token_s: float = 0.0
    usage: bool = True
    reasoning: int = 0
    reasoning_apart: bool = False
    cached_share: float = 0.0
    cut_after: int | None = None
    error: int | None = None
    error_body: Any = None
    error_in_stream: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class FakeProvider:
    """The API, what it has counted, and what it charges."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.behaviour = Behaviour()
        self.bill: dict[str, int] = {}
        self.asked = self.refused = self.abandoned = 0
        self.bodies: list[dict[str, Any]] = []
        self.by_key: dict[str, int] = {}
        self.seconds: dict[int, int] = {}
        self.open = self.most_open = 0
        self._level: float | None = None
        self._level_s = 0.0
        self.tokens_taken = 0.0

    def app(self) -> Starlette:
        played = {
            "/v1/chat/completions": self.chat,
            "/v1/completions": self.chat,
            "/v1/responses": self.responses,
            "/v1/messages": self.messages,
            "/v1/embeddings": self.embeddings,
        }
        routes = [Route(path, answer, methods=["POST"]) for path, answer in played.items()]
        routes.append(Route("/control", self.control, methods=["POST"]))
        routes.append(Route("/report", self.report, methods=["GET"]))
        return Starlette(routes=routes)

    async def control(self, request: Request) -> Response:
        wanted = await request.json()
        if wanted.pop("reset", False):
            self.reset()
        self.behaviour = Behaviour(**(asdict(self.behaviour) | wanted))
        self._level = None
        return JSONResponse({})

    async def report(self, _: Request) -> Response:
        names = ("bill", "asked", "refused", "abandoned", "bodies", "by_key", "most_open", "open", "tokens_taken")
        told = {name: getattr(self, name) for name in names}
        return JSONResponse(told | {"bill_nano": sum(self.bill.values())})

    # what every endpoint does first

    def _refusal(self, request: Request, tokens: float) -> Response | None:
        self.asked += 1
        now = self.behaviour
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.by_key[given] = self.by_key.get(given, 0) + 1
        if now.keys and given not in now.keys:
            return _error(
                401, f"Incorrect API key provided: {given}. You can find your API key elsewhere.", "invalid_api_key"
            )
        if now.error is not None:
            body = now.error_body
            return (
                JSONResponse(body, status_code=now.error, headers=now.headers)
                if body is not None
                else _error(now.error, f"it fails with {now.error}, asked by {given}", "played", headers=now.headers)
            )
        wait_s = self._wait_s(tokens)
        if wait_s is None:
            return None
        self.refused += 1
        return _error(429, "Rate limit reached; please try again later.", "rate_limit_exceeded", self._when(wait_s))

    def _wait_s(self, tokens: float) -> float | None:
        """Seconds until there is room; None: it is taken. Failed requests count, too."""
        now, at_s = self.behaviour, time.time()
        if now.requests_per_minute is not None:
            second = int(at_s)
            self.seconds[second] = self.seconds.get(second, 0) + 1
            if self.seconds[second] > now.requests_per_minute / 60:
                return second + 1 - at_s
        if now.tokens_per_minute is not None:
            rate = now.tokens_per_minute / 60
            full = rate * TOKEN_WINDOW_S
            level = full if self._level is None else min(full, self._level + (at_s - self._level_s) * rate)
            self._level_s, self._level = at_s, level
            if level < tokens:
                return (tokens - level) / rate
            self._level -= tokens
        self.tokens_taken += tokens
        return None

    def _give_back(self, tokens: float) -> None:
        self.tokens_taken -= tokens
        if self._level is not None:
            self._level += tokens

    def _when(self, wait_s: float) -> dict[str, str]:
        return {
            "seconds": {"retry-after": f"{wait_s:.3f}"},
            "date": {
                "retry-after": format_datetime(datetime.fromtimestamp(time.time() + wait_s + 1, UTC), usegmt=True)
            },
            "ms": {"retry-after-ms": str(int(1e3 * wait_s) + 1), "retry-after": "1"},
            "reset": {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": f"{int(1e3 * wait_s) + 1}ms",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "100",
            },
            "azure": {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "0"},
            "none": {},
        }[self.behaviour.refusal]

    # the endpoints

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        prompt = _words(body.get("messages", body.get("prompt")))
        longest = body.get("max_completion_tokens") or body.get("max_tokens") or 1000
        if (refusal := self._refusal(request, prompt + longest)) is not None:
            return refusal
        now, name = self.behaviour, f"req-{self.asked}"
        tokens = min(now.tokens, longest)
        chat = "messages" in body
        if body.get("stream"):
            events = self._stream(name, body, prompt, tokens, longest, chat=chat)
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"x-request-id": name} | now.headers
            )
        began_s, lasts_s = time.monotonic(), now.first_token_s + now.token_s * tokens
        with self._opened():
            while (past_s := time.monotonic() - began_s) < lasts_s:
                if await request.is_disconnected():
                    self.abandoned += 1
                    self._charge(name, prompt, int(tokens * past_s / lasts_s), longest)
                    return Response(status_code=499)
                await asyncio.sleep(min(0.02, lasts_s - past_s))
        usage = self._charge(name, prompt, tokens, longest)
        text = "".join(f"word{i} " for i in range(tokens))
        choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice["logprobs"] = _logprobs(body, range(tokens))
        answer = {
            "id": name,
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", **choice}],
            **({"usage": usage} if now.usage else {}),
        }
        return JSONResponse(answer, headers={"x-request-id": name} | now.headers)

    async def _stream(
        self, name: str, body: dict[str, Any], prompt: int, tokens: int, longest: int, *, chat: bool
    ) -> AsyncIterator[str]:
        now, sent = self.behaviour, 0
        wanted = bool((body.get("stream_options") or {}).get("include_usage")) and now.usage
        shared = {"id": name, "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
        try:
            with self._opened():
                for i in range(tokens):
                    await asyncio.sleep(now.token_s if i else now.first_token_s)
                    if now.cut_after == i:
                        raise ConnectionError("cut off on demand")
                    if now.error_in_stream is not None and i == 1:
                        yield f"data: {json.dumps(now.error_in_stream)}\n\n"
                        return
                    delta = {"delta": {"content": f"word{i} "}} if chat else {"text": f"word{i} "}
                    choice = {"index": 0, "finish_reason": "stop" if i == tokens - 1 else None, **delta}
                    choice["logprobs"] = _logprobs(body, [i])
                    sent += 1
                    yield _event(shared | {"choices": [choice]} | ({"usage": None} if wanted else {}))
            usage = self._charge(name, prompt, tokens, longest)
            if wanted:
                yield _event(shared | {"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except BaseException:
            self.abandoned += 1
            self._charge(name, prompt, sent, longest)
            raise

    async def responses(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        prompt, longest = _words(body["input"]), body.get("max_output_tokens") or 1000
        if (refusal := self._refusal(request, prompt + longest)) is not None:
            return refusal
        told = self._charge("resp", prompt, self.behaviour.tokens, longest)
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": told["prompt_tokens_details"],
            "output_tokens": told["completion_tokens"],
            "total_tokens": told["total_tokens"],
        }
        answer = {"id": "resp", "object": "response", "status": "completed", "output": [], "usage": usage}
        if not body.get("stream"):
            return JSONResponse(answer)
        events = [
            {"type": "response.created", "response": {"id": "resp"}},
            {"type": "response.output_text.delta", "delta": "word"},
            {"type": "response.completed", "response": answer},
        ]
        return StreamingResponse(_played(events), media_type="text/event-stream")

    async def messages(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        prompt, longest = _words(body["messages"]), body["max_tokens"]
        if (refusal := self._refusal(request, prompt + longest)) is not None:
            return refusal
        told = self._charge("msg", prompt, self.behaviour.tokens, longest)
        cached = told["prompt_tokens_details"]["cached_tokens"]
        usage = {
            "input_tokens": prompt - cached,
            "cache_read_input_tokens": cached,
            "output_tokens": told["completion_tokens"],
        }
        if not body.get("stream"):
            return JSONResponse({"id": "msg", "type": "message", "content": [], "usage": usage})
        events = [
            {"type": "message_start", "message": {"id": "msg", "usage": usage | {"output_tokens": 1}}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word"}},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": usage["output_tokens"]},
            },
            {"type": "message_stop"},
        ]
        return StreamingResponse(_played(events), media_type="text/event-stream")

    async def embeddings(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        prompt = _words(body["input"])
        if (refusal := self._refusal(request, prompt)) is not None:
            return refusal
        self.bill[f"emb-{self.asked}"] = prompt * NANO_INPUT
        usage = {"prompt_tokens": prompt, "total_tokens": prompt}
        return JSONResponse({"object": "list", "data": [{"index": 0, "embedding": [0.0]}], "usage": usage})

    def _charge(self, name: str, prompt: int, tokens: int, longest: int) -> dict[str, Any]:
        """Writes the bill, in whole nano-USD, and returns what it tells of it."""
        now = self.behaviour
        cached, output = int(prompt * now.cached_share), tokens + now.reasoning
        nano = (prompt - cached) * NANO_INPUT + cached * NANO_CACHED + output * NANO_OUTPUT
        self.bill[f"{name}-{len(self.bill)}"] = nano
        self._give_back(longest - min(output, longest))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens if now.reasoning_apart else output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            yield
        finally:
            self.open -= 1


def _words(value: Any) -> int:
    """Tokens of a prompt: its words, and three a message."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(3 + _words(one.get("content")) if isinstance(one, dict) else _words(one) for one in value)
    return 0


def _logprobs(body: dict[str, Any], tokens: Iterable[int]) -> dict[str, Any] | None:
    """Of tokens that are each less likely than the one before, with as many others as are asked for."""
    if not body.get("logprobs"):
        return None
    if "prompt" in body:
        others = range(body["logprobs"])
        top = [{f"{other}": -i - other for other in others} for i in tokens]
        return {"token_logprobs": [-i for i in tokens], "top_logprobs": top}
    others = range(body.get("top_logprobs") or 0)
    likeliest = [[{"token": f"{other}", "logprob": -i - other} for other in others] for i in tokens]
    places = [{"token": "w", "logprob": -i, "top_logprobs": top} for i, top in zip(tokens, likeliest, strict=True)]
    return {"content": places, "refusal": None}


def _event(payload: dict[str, Any]) -> str:
    return f"data: {json.dumps(payload)}\n\n"


async def _played(events: list[dict[str, Any]]) -> AsyncIterator[str]:
    for event in events:
        yield f"event: {event['type']}\n{_event(event)}"


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Response:
    error = {"message": message, "type": "provider_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


class Running:
    """A fake provider's process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.base_url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    def behave(self, *, reset: bool = True, **behaviour: Any) -> None:
        """From now on it does so; whatever it has counted is forgotten unless `reset` is False."""
        known = {one.name for one in fields(Behaviour)}
        assert behaviour.keys() <= known
        self._call("/control", json.dumps(behaviour | {"reset": reset}).encode())

    def report(self) -> dict[str, Any]:
        """What it has counted and charged."""
        told: dict[str, Any] = json.loads(self._call("/report"))
        return told

    def _call(self, path: str, data: bytes | None = None) -> bytes:
        with urlopen(Call(self.base_url.removesuffix("/v1") + path, data=data), timeout=10) as answer:
            said: bytes = answer.read()
        return said


@contextlib.contextmanager
def fake_provider() -> Iterator[Running]:
    """Starts one, and ends it."""
    command = [sys.executable, "-m", "tests.deployments.fake_provider"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.terminate()


def main() -> None:
    server = uvicorn.Server(uvicorn.Config(FakeProvider().app(), log_level="critical", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    asyncio.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main()
