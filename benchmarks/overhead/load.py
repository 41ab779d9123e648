"""A closed-loop load of short chats, and the CPU that the service's processes spend on it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import numpy as np
import psutil


@dataclass(frozen=True)
class Load:
    """One measured round; latencies and CPU in milliseconds."""

    requests: int
    errors: int
    seconds: float
    latency_ms_p50: float
    first_byte_ms_p50: float
    cpu_ms: dict[str, float]

    @property
    def cpu_ms_per_request(self) -> float:
        return sum(self.cpu_ms.values()) / self.requests

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


def run_load(url: str, *, requests: int, concurrency: int, stream: bool, model: str) -> Load:
    """Sends the requests, `concurrency` at a time, and charges the CPU meanwhile to the kinds of processes."""
    before = cpu_seconds()
    started_s = time.perf_counter()
    latencies, firsts, errors = asyncio.run(_send(url, requests, concurrency, stream, model))
    seconds = time.perf_counter() - started_s
    after = cpu_seconds()
    return Load(
        requests=requests,
        errors=errors,
        seconds=seconds,
        latency_ms_p50=1e3 * float(np.median(latencies)),
        first_byte_ms_p50=1e3 * float(np.median(firsts)),
        cpu_ms={kind: 1e3 * (after[kind] - before.get(kind, 0.0)) for kind in after},
    )


async def _send(
    url: str, requests: int, concurrency: int, stream: bool, model: str
) -> tuple[list[float], list[float], int]:
    numbers = iter(range(requests))
    latencies: list[float] = []
    firsts: list[float] = []
    errors = 0
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker() -> None:
            nonlocal errors
            for number in numbers:
                started_s = time.perf_counter()
                async with session.post(url, data=_body(number, stream, model), headers=_JSON) as answer:
                    await answer.content.readany()
                    firsts.append(time.perf_counter() - started_s)
                    await answer.read()
                latencies.append(time.perf_counter() - started_s)
                if answer.status != 200:
                    errors += 1

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return latencies, firsts, errors


_JSON = {"content-type": "application/json"}


def _body(number: int, stream: bool, model: str) -> bytes:
    prompt = f"What is {number % 997} plus {number % 89}?"
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return json.dumps(body, separators=(",", ":")).encode()


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far of the service's processes, by kind of deployment."""
    total: dict[str, float] = defaultdict(float)
    for kind, process in _processes():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total[kind] += times.user + times.system
    return dict(total)


def _processes() -> Iterator[tuple[str, psutil.Process]]:
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or []) or process.info["name"]
        if "ServeReplica" in title:
            # ray::ServeReplica:APPLICATION:DEPLOYMENT...
            name = title.split("ServeReplica:", 1)[1].split(".")[0].split()[0]
            yield name.replace(":", "/"), process
        elif process.info["name"] == "haproxy":
            yield "haproxy", process
