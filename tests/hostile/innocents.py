"""Twenty clients that only ask, each with a key of its own, all the time: what became of each request, and how fast."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from apportion.deployments.wire.headers import STREAM_COST_HEADER, TENANT_HEADER
from apportion.deployments.wire.settlement import SETTLED_HEADER
from benchmarks.zoo.tasks import generate

CLIENTS = 20
PAUSE_S = (0.8, 1.6)  # between an answer and the next question; whoever shares two cores with the service asks slowly
MAX_TOKENS = 12
LIMIT_S = 80.0  # longer than it takes to find a core that stands still, 2 x stall_s


@dataclass
class Answer:
    """One request's end; `status` is None where the connection failed. Times are of the monotonic clock."""

    client: int
    tenant: str
    started_s: float
    ended_s: float = 0.0
    status: int | None = None
    rung: str = ""
    text: str = ""
    told_usd: float | None = None
    complaint: str = ""

    @property
    def took_s(self) -> float:
        return self.ended_s - self.started_s


def p95_s(answers: Sequence[Answer]) -> float:
    return float(np.quantile([answer.took_s for answer in answers], 0.95)) if answers else 0.0


@dataclass
class Innocents:
    """The clients; they ask while `asking` is set, in the name of `tenant`."""

    url: str
    keys: Sequence[str]
    tenant: str = "quiet"
    answers: list[Answer] = field(default_factory=list)
    asking: threading.Event = field(default_factory=threading.Event)
    stopping: bool = False
    busy: int = 0

    def pause(self) -> None:
        """Returns when none of them waits for an answer."""
        self.asking.clear()
        deadline_s = time.monotonic() + LIMIT_S + 5
        while self.busy and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def ask_as(self, tenant: str) -> None:
        self.tenant = tenant
        self.asking.set()

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(len(self.keys))))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        rng = random.Random(number)
        prompts = [example.prompt for example in generate("test", 200, seed=number)]
        await asyncio.sleep(rng.uniform(0, PAUSE_S[1]))
        while not self.stopping:
            if self.asking.is_set():
                self.busy += 1
                try:
                    answer = Answer(number, self.tenant, time.monotonic())
                    await self._ask(session, answer, rng.choice(prompts), stream=rng.random() < 0.5)
                    answer.ended_s = time.monotonic()
                    self.answers.append(answer)
                finally:
                    self.busy -= 1
            await asyncio.sleep(rng.uniform(*PAUSE_S))

    async def _ask(self, session: aiohttp.ClientSession, answer: Answer, prompt: str, *, stream: bool) -> None:
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}
        headers = {"authorization": f"Bearer {self.keys[answer.client]}", TENANT_HEADER: answer.tenant}
        headers[STREAM_COST_HEADER] = "true"
        try:
            async with session.post(
                f"{self.url}/v1/chat/completions", json=body | {"stream": stream}, headers=headers
            ) as response:
                answer.status = response.status
                answer.rung = response.headers.get("x-router-rung", "")
                raw = (await response.read()).decode(errors="replace")
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            answer.status, answer.complaint = None, type(error).__name__
            return
        if answer.status != 200:
            answer.complaint = raw[:300]
            return
        if stream:
            self._read_stream(answer, raw)
        else:
            told = json.loads(raw)
            answer.text = told["choices"][0]["message"]["content"] or ""
            answer.told_usd = float(response.headers[SETTLED_HEADER])

    def _read_stream(self, answer: Answer, raw: str) -> None:
        if not raw.endswith("data: [DONE]\n\n") or '"error"' in raw:
            answer.status, answer.complaint = None, f"a broken stream: {raw[-300:]}"
            return
        for line in raw.splitlines():
            if line.startswith(f": {SETTLED_HEADER} "):
                answer.told_usd = float(line.rsplit(" ", 1)[1])
            elif line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    answer.text += choice["delta"].get("content") or ""


@contextmanager
def innocents(url: str, keys: Sequence[str]) -> Iterator[Innocents]:
    """They run in a thread of their own until the context ends."""
    clients = Innocents(url, keys)
    thread = threading.Thread(target=lambda: asyncio.run(clients.run()), name="innocents")
    thread.start()
    try:
        yield clients
    finally:
        clients.stopping = True
        thread.join()
