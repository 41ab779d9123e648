"""A small OpenAI-like endpoint in a thread of its own, whose models add numbers, and fail as they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn


@dataclass
class FakeOpenAI:
    """Model `good` adds rightly, `bad` is one off, `flaky` asks for patience, `short` refuses, `odd` alternates.

    All but `bad` tell log-probabilities where they are asked to, less sure with each answer to the same prompt.

    `says` are raw answers by model, or by model and text of the prompt, each with its status.
    """

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    delay_s: float = 0.0
    at_once: int = 0
    most_at_once: int = 0
    retried: set[str] = field(default_factory=set)
    waited_s: list[float] = field(default_factory=list)
    usage: bool = True
    says: dict[str | tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    _answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    _refused_at: dict[str, float] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        body = json.loads(raw)
        self.asked.append({**body, "path": scope["path"]})
        self.keys.add(dict(scope["headers"]).get(b"authorization", b"").decode())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay_s)
        self.at_once -= 1
        status, answer, headers = self._answer(body)
        head = [(b"content-type", b"application/json"), *headers]
        await send({"type": "http.response.start", "status": status, "headers": head})
        said = answer if isinstance(answer, str) else json.dumps(answer)
        await send({"type": "http.response.body", "body": said.encode()})

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        model = body["model"]
        said = self.says.get((model, text)) or self.says.get(model)
        if said is not None:
            return *said, []
        if model == "short":
            return 400, {"error": {"message": "maximum context length is 4 tokens"}}, []
        if model == "unknown":
            return 404, {"error": {"message": "no such model"}}, []
        if model == "flaky":
            if text not in self.retried:
                self.retried.add(text)
                self._refused_at[text] = time.monotonic()
                return 429, {"error": {"message": "slow down"}}, [(b"retry-after", b"1")]
            self.waited_s.append(time.monotonic() - self._refused_at[text])
        one, other = map(int, re.findall(r"\d+", text))
        self._answered[model, text] += 1
        off = int(model == "bad") + int(model == "odd" and self._answered[model, text] % 2)
        said = f"The answer is {one + other + off}"
        choice = {"text": said} if "prompt" in body else {"message": {"role": "assistant", "content": said}}
        if body.get("logprobs") and model != "bad":
            choice["logprobs"] = _logprobs(-float(self._answered[model, text]), whole="prompt" not in body)
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
        return 200, {"choices": [choice], **({"usage": usage} if self.usage else {})}, []


def _logprobs(least: float, *, whole: bool) -> dict[str, Any]:
    """Of two tokens, each the likeliest of three; the second is sure."""
    likeliest = [[least, least - 1, least - 2], [0.0, -3.0, -4.0]]
    if not whole:
        top = [{f"{i}": one for i, one in enumerate(place)} for place in likeliest]
        return {"token_logprobs": [least, 0.0], "top_logprobs": top}
    top = [[{"token": f"{i}", "logprob": one} for i, one in enumerate(place)] for place in likeliest]
    return {"content": [{"token": "0", "logprob": one[0]["logprob"], "top_logprobs": one} for one in top]}


@contextlib.contextmanager
def serving(app: FakeOpenAI | None = None) -> Iterator[FakeOpenAI]:
    app = app or FakeOpenAI()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            app.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            yield app
        finally:
            server.should_exit = True
            thread.join()
