"""A runner of jobs before the real Router, in this process; engines and predictor are played."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apportion.deployments.config.keys import Permissions
from apportion.deployments.config.knowledge import Knowledge
from apportion.deployments.config.service import ServiceConfig
from apportion.deployments.engine.server import EngineServer
from apportion.deployments.jobs.jobs import HeadlessIngress
from apportion.deployments.wire.channel import Listener
from apportion.deployments.wire.engine_headers import SIGNALS_ASKED_HEADER
from apportion.deployments.wire.listening import ANY_PORT
from apportion.deployments.wire.settlement import Settled, price_of, settled_headers
from apportion.router.batch.messages import EngineReplica
from apportion.router.budget import Account, to_nano
from apportion.router.jobs.blobs import Blobs, open_blobs
from apportion.router.jobs.records import FileRecord, Job, path_of_file
from apportion.router.jobs.store import JobStore
from apportion.router.prices import ModelPrice
from apportion.router.signals import Signals
from tests.deployments.ingress.dispatching import serving
from tests.deployments.local_router import NAMES, DearIsGood, close_router, configuration, make_router

CHAT = "/v1/chat/completions"
INPUT_TOKENS, OUTPUT_TOKENS = 10, 10
OWNER = Account("key", "team")
SURE, UNSURE = Signals(-0.2, -0.8, -0.6, 5.0), Signals(-3.0, -12.0, -9.0, 0.3)
Answer = Callable[[str, str], Awaitable[Response | None]]


@dataclass
class Engines:
    """One played engine for each model: answers with the prompt and its name, at the price that it is sent.

    Args:
        before: may answer otherwise, or take time; gets the model's name and the prompt.
        sure: where an engine is asked how sure its model is, whether it is; gets the model's name and the prompt. None:
            it does not tell.

    Attributes:
        asked: prompts, by how often they came here.
        most: requests at once on each model.
        cost_nano: of all that was answered.
    """

    before: Answer | None = None
    sure: Callable[[str, str], bool | None] = lambda model, prompt: None
    asked: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    cost_nano: int = 0

    def app(self, model: str) -> Starlette:
        async def answer(request: Request) -> Response:
            body = await request.json()
            prompt = body["messages"][-1]["content"]
            self.asked[prompt] += 1
            self.now[model] += 1
            self.most[model] = max(self.most[model], self.now[model])
            try:
                said = None if self.before is None else await self.before(model, prompt)
            finally:
                self.now[model] -= 1
            if said is not None:
                return said
            sure = self.sure(model, prompt) if SIGNALS_ASKED_HEADER in request.headers else None
            signals = None if sure is None else SURE if sure else UNSURE
            return self._answered(model, prompt, price_of(request.headers, ModelPrice(0, 0)), signals)

        return Starlette(routes=[Route(CHAT, answer, methods=["POST"])])

    def _answered(self, model: str, prompt: str, price: ModelPrice, signals: Signals | None) -> Response:
        cost_usd = price.cost_usd(INPUT_TOKENS, OUTPUT_TOKENS)
        self.cost_nano += to_nano(cost_usd)
        message = {"role": "assistant", "content": f"{prompt} by {model}"}
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 20}
        body = {"object": "chat.completion", "model": model, "choices": [{"message": message}], "usage": usage}
        settled = Settled(cost_usd, INPUT_TOKENS, OUTPUT_TOKENS, signals=signals)
        return JSONResponse(body, headers=settled_headers(settled))


@dataclass
class Place:
    """Files, jobs, and what works on them."""

    config: ServiceConfig
    blobs: Blobs
    store: JobStore
    router: Any
    engines: Engines
    servers: dict[str, EngineServer]
    predictor: Any
    runners: list[HeadlessIngress] = field(default_factory=list)

    def start(self) -> HeadlessIngress:
        """One more runner."""
        methods = {name: _remote(getattr(self.router, name)) for name in ("address", "bulk", "secret")}
        means = np.full(len(NAMES), 0.5)
        pairs = Knowledge.of(self.config).cascades
        runner = HeadlessIngress(self.config, SimpleNamespace(**methods), self.predictor, means, frozenset(), pairs)
        self.runners.append(runner)
        return runner

    def submit(
        self,
        rows: Sequence[dict[str, Any]],
        window_s: float = 3600.0,
        may: dict[str, Any] | None = None,
        **routing: Any,
    ) -> Job:
        """A job of these bodies, whose custom ids are their numbers.

        Args:
            may: permissions of its owner.
        """
        lines = [
            {"custom_id": f"row-{number}", "method": "POST", "url": CHAT, "body": body}
            for number, body in enumerate(rows)
        ]
        return self.submit_text("".join(json.dumps(line) + "\n" for line in lines), window_s, may, **routing)

    def submit_text(
        self, text: str, window_s: float = 3600.0, may: dict[str, Any] | None = None, **routing: Any
    ) -> Job:
        now_s = int(time.time())
        file_id, job_id = f"file-{secrets.token_hex(8)}", f"batch_{secrets.token_hex(8)}"
        with self.blobs.writing(path_of_file(file_id)) as stream:
            stream.write(text.encode())
        self.store.add_file(FileRecord(file_id, OWNER, "in.jsonl", "batch", len(text), now_s))
        job = Job(
            job_id,
            OWNER,
            CHAT,
            file_id,
            "1h",
            int(now_s + window_s),
            stamps={"created_at": now_s},
            routing=routing,
            caller=Permissions(**(may or {})).model_dump(mode="json"),
        )
        self.store.add_job(job)
        return job

    def job(self, job: Job) -> Job:
        return self.store.job(OWNER, job.id)

    async def ended(self, job: Job, timeout_s: float = 20.0) -> Job:
        return await self.until(job, lambda now: now.ended, timeout_s)

    async def until(self, job: Job, true: Callable[[Job], bool], timeout_s: float = 20.0) -> Job:
        async with asyncio.timeout(timeout_s):
            while not true(now := self.job(job)):
                await asyncio.sleep(0.05)
        return now

    def lines(self, job: Job) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Of the output and the error file."""
        now = self.job(job)
        return self._read(now.output_file_id), self._read(now.error_file_id)

    def _read(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        file = self.store.file(OWNER, file_id)
        with self.blobs.reading(file.path) as stream:
            return [json.loads(line) for line in stream.read().decode().splitlines()]

    async def money(self, job: Job) -> tuple[int, int]:
        """What the ledger has of the job: spent, and set aside."""
        await self.router._reservations.spending.flush()
        balance = (await self.router._reservations.spending.of_jobs([job.id]))[job.id]
        return balance.spent_nano, balance.reserved_nano


def chat(prompt: str, model: str = "auto", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": prompt}], **fields}


def chats(count: int, model: str = "auto") -> list[dict[str, Any]]:
    return [chat(f"prompt {number}", model) for number in range(count)]


@contextlib.asynccontextmanager
async def place_at(
    folder: Path,
    before: Answer | None = None,
    *,
    slots: int = 16,
    keys: dict[str, str] | None = None,
    sections: dict[str, Any] | None = None,
    predictor: Any = None,
    **bulk: Any,
) -> AsyncIterator[Place]:
    """A place without a runner yet.

    Args:
        sections: further ones of the configuration.
        predictor: says what to expect of rows; None: that dear models are good.
    """
    config = configuration(None, slots=slots, keys=keys, bulk={"storage": str(folder), **bulk}, **(sections or {}))
    assert config.bulk is not None
    engines, router = Engines(before), make_router(config)
    listener = Listener((predictor or DearIsGood()).predict, ANY_PORT, "predictor.ports")
    predictor = SimpleNamespace(address=SimpleNamespace(remote=partial(listener.start, "127.0.0.1")))
    async with contextlib.AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(serving(engines.app(name))) for name in NAMES}
        store = JobStore(config.bulk.database_url(None))
        place = Place(config, open_blobs(config.bulk.place), store, router, engines, servers, predictor)
        beats = asyncio.create_task(_beat(place, slots))
        try:
            yield place
        finally:
            for runner in place.runners:
                await runner.close()
            beats.cancel()
            listener.close()
            store.close()
            await close_router(router)


async def _beat(place: Place, slots: int) -> None:
    while True:
        for name, server in place.servers.items():
            await place.router.announce(EngineReplica(f"{name}-0", name, server.url, slots))
        await asyncio.sleep(0.5)


def _remote(method: Any) -> Any:
    return SimpleNamespace(remote=method)
