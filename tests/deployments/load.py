"""Requests that keep coming while a test breaks or changes something, and what became of each."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Load:
    """`ends` counts requests by their end: 'whole' for a complete answer, else what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    @property
    def sent(self) -> int:
        return self.ends.total()


@contextmanager
def steady_load(url: str, *, clients: int, **fields: Any) -> Iterator[Load]:
    """So many clients ask, each again when it is answered, every second time for a stream; all end with the context."""
    load = Load()
    thread = threading.Thread(target=lambda: asyncio.run(_run(url, clients, fields, load)))
    thread.start()
    try:
        yield load
    finally:
        load.stopping = True
        thread.join()


async def _run(url: str, clients: int, fields: dict[str, Any], load: Load) -> None:
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def client(number: int) -> None:
            turn = number
            while not load.stopping:
                turn += 1
                load.ends[await ask(session, url, stream=turn % 2 == 0, **fields)] += 1

        await asyncio.gather(*(client(number) for number in range(clients)))


async def ask(session: aiohttp.ClientSession, url: str, **fields: Any) -> str:
    """How one request ended."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is 2 plus 3?"}]} | fields
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            raw = (await answer.read()).decode()
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"lost: {error!r}"
    if answer.status != 200:
        return f"{answer.status}: {raw[:200]}"
    if not body.get("stream"):
        return "whole" if json.loads(raw)["usage"]["completion_tokens"] else "empty"
    whole = raw.endswith("data: [DONE]\n\n") and '"error"' not in raw
    return "whole" if whole else f"broken stream: {raw[-200:]}"
