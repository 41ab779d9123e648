"""The one chat client of all benchmarks: a request, and what came back of it.

`ask` reads everything that an answer says. `time_only` reads nothing but bytes and clocks, for measuring what lies
between client and engine on cores that the client shares.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from apportion.deployments.wire.headers import STREAM_COST_HEADER
from apportion.deployments.wire.logprobs import signals_of_choice
from apportion.deployments.wire.settlement import SETTLED_HEADER
from apportion.router.signals import Signals

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
_TELL_COST = {STREAM_COST_HEADER: "true"}
_SPAN = re.compile(r"([\w-]+);dur=([\d.]+)")
_COMMENT = f": {SETTLED_HEADER} ".encode()
_DATA = b"data: "


@dataclass(slots=True)
class Answer:
    """`first_token_s` and `latency_s` count from sending; `gaps_s` lie between the chunks of a stream.

    `error` is empty where the answer is complete; `status` is 0 where there was none; `cost_usd` is None where the
    server does not say, and so are `signals` where a whole answer tells no log-probabilities. `headers` takes names in
    upper and in lower case.
    """

    latency_s: float = 0.0
    first_token_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    cost_usd: float | None = None
    spans_ms: dict[str, float] = field(default_factory=dict)
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    signals: Signals | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """The times of one request; `timing` is its `server-timing` header."""

    ok: bool
    latency_s: float
    first_byte_s: float
    timing: str


@asynccontextmanager
async def chat_session(timeout_s: float) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with as many connections as requests; `timeout_s` is the longest time of each."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield session


def greedy_chat(prompt: str, model: str, max_tokens: int, *, stream: bool = False) -> dict[str, Any]:
    """A body that asks one prompt of one model at temperature 0."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens, "stream": stream}


async def ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Answer:
    """Sends one body to a chat endpoint; a failure is an answer with `error`, never an exception.

    Args:
        session: of `chat_session`.
        url: of `/v1/chat/completions`.
        body: OpenAI's; with `stream` the usage is asked for too, so that tokens are counted by the engine.
    """
    if body.get("stream"):
        body = body | {"stream_options": {"include_usage": True}}
    answer = Answer()
    started_s = time.perf_counter()
    try:
        async with session.post(
            url, data=json.dumps(body), headers=JSON | _TELL_COST | dict(headers or {})
        ) as response:
            answer.status = response.status
            answer.headers = response.headers
            answer.model = answer.headers.get("x-router-model", "")
            answer.spans_ms = spans_ms(answer.headers.get("server-timing", ""))
            if response.status != 200:
                answer.error = f"{response.status}: {(await response.text())[:200]}"
            elif body.get("stream"):
                await _read_stream(response, answer, started_s)
            else:
                _read_whole(await response.read(), answer)
    except (aiohttp.ClientError, TimeoutError, ValueError, TypeError, LookupError) as error:
        answer.error = repr(error)
    answer.latency_s = time.perf_counter() - started_s
    return answer


async def ask_all(url: str, bodies: Sequence[dict[str, Any]], *, concurrency: int, timeout_s: float) -> list[Answer]:
    """Sends the bodies, `concurrency` at a time; answers in their order.

    Args:
        url: of the service, without a path.
    """
    seats = asyncio.Semaphore(concurrency)
    async with chat_session(timeout_s) as session:

        async def one(body: dict[str, Any]) -> Answer:
            async with seats:
                return await ask(session, url + PATH, body)

        return list(await asyncio.gather(*map(one, bodies)))


async def time_only(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Sample:
    """Sends a body and throws the answer away."""
    started_s = time.perf_counter()
    try:
        async with session.post(url, data=body, headers=JSON | dict(headers or {})) as answer:
            await answer.content.readany()
            first_s = time.perf_counter() - started_s
            await answer.read()
    except (aiohttp.ClientError, TimeoutError):
        return Sample(False, time.perf_counter() - started_s, 0.0, "")
    latency_s = time.perf_counter() - started_s
    return Sample(answer.status == 200, latency_s, first_s, answer.headers.get("server-timing", ""))


def spans_ms(header: str) -> dict[str, float]:
    """The spans of a `server-timing` header in milliseconds, by name."""
    return {name: float(duration) for name, duration in _SPAN.findall(header)}


def _read_whole(raw: bytes, answer: Answer) -> None:
    body = json.loads(raw)
    answer.model = answer.model or body.get("model", "")
    answer.text = body["choices"][0]["message"]["content"] or ""
    answer.signals = signals_of_choice(body["choices"][0])
    _take_usage(body["usage"], answer)
    if (settled := answer.headers.get(SETTLED_HEADER)) is not None:
        answer.cost_usd = float(settled)


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer, started_s: float) -> None:
    last_s = started_s
    done = False
    async for line in response.content:
        if line.startswith(_COMMENT):
            answer.cost_usd = float(line[len(_COMMENT) :].split()[0])  # an engine tells lengths behind it
        elif line.startswith(_DATA + b"[DONE]"):
            done = True
        elif line.startswith(_DATA):
            now_s = time.perf_counter()
            if _take_event(json.loads(line[len(_DATA) :]), answer):
                if answer.first_token_s is None:
                    answer.first_token_s = now_s - started_s
                else:
                    answer.gaps_s.append(now_s - last_s)
                last_s = now_s
    if not done and not answer.error:
        answer.error = "the stream ended before [DONE]"


def _take_event(event: dict[str, Any], answer: Answer) -> bool:
    """Adds an event to the answer; True where it brought text."""
    if "error" in event:
        answer.error = str(event["error"])
        return False
    answer.model = answer.model or event.get("model", "")
    if event.get("usage"):
        _take_usage(event["usage"], answer)
    text = event["choices"][0]["delta"].get("content") if event["choices"] else None
    answer.text += text or ""
    return bool(text)


def _take_usage(usage: dict[str, Any], answer: Answer) -> None:
    answer.input_tokens = usage["prompt_tokens"]
    answer.output_tokens = usage["completion_tokens"]
