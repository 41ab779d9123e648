"""One chat request and what came back: text, tokens and when they came, the model, dollars, the router's spans."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from apportion.deployments.wire.settlement import SETTLED_HEADER

JSON = {"content-type": "application/json"}
_SPAN = re.compile(r"([\w-]+);dur=([\d.]+)")
_COMMENT = f": {SETTLED_HEADER} ".encode()
_DATA = b"data: "


@dataclass(slots=True)
class Answer:
    """`first_token_s` and `latency_s` count from sending; `gaps_s` lie between the chunks of a stream.

    `error` is empty where the answer is complete; `cost_usd` is None where the server does not say.
    """

    latency_s: float = 0.0
    first_token_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    text: str = ""
    output_tokens: int = 0
    model: str = ""
    cost_usd: float | None = None
    spans_ms: dict[str, float] = field(default_factory=dict)
    error: str = ""


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    """Sends one body to a chat endpoint; a failure is an answer with `error`, never an exception.

    Args:
        url: of `/v1/chat/completions`.
        body: OpenAI's; with `stream` the usage is asked for too, so that tokens are counted by the engine.
    """
    if body.get("stream"):
        body = body | {"stream_options": {"include_usage": True}}
    answer = Answer()
    started_s = time.perf_counter()
    try:
        async with session.post(url, data=json.dumps(body), headers=JSON) as response:
            answer.model = response.headers.get("x-router-model", "")
            answer.spans_ms = spans_ms(response.headers.get("server-timing", ""))
            if response.status != 200:
                answer.error = f"{response.status}: {(await response.text())[:200]}"
            elif body.get("stream"):
                await _read_stream(response, answer, started_s)
            else:
                _read_whole(await response.read(), response, answer)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        answer.error = repr(error)
    answer.latency_s = time.perf_counter() - started_s
    return answer


def spans_ms(header: str) -> dict[str, float]:
    """The spans of a `server-timing` header in milliseconds, by name."""
    return {name: float(duration) for name, duration in _SPAN.findall(header)}


def _read_whole(raw: bytes, response: aiohttp.ClientResponse, answer: Answer) -> None:
    body = json.loads(raw)
    answer.model = answer.model or body.get("model", "")
    answer.text = body["choices"][0]["message"]["content"] or ""
    answer.output_tokens = body["usage"]["completion_tokens"]
    if (settled := response.headers.get(SETTLED_HEADER)) is not None:
        answer.cost_usd = float(settled)


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer, started_s: float) -> None:
    last_s = started_s
    done = False
    async for line in response.content:
        if line.startswith(_COMMENT):
            answer.cost_usd = float(line[len(_COMMENT) :])
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
        answer.output_tokens = event["usage"]["completion_tokens"]
    text = event["choices"][0]["delta"].get("content") if event["choices"] else None
    answer.text += text or ""
    return bool(text)
