"""One round of short chats along one way: latency, the router's own spans, and the CPU that all of it took."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np

from benchmarks.load.arrivals import closed_loop
from benchmarks.load.chat import Sample, chat_session, spans_ms, time_only
from benchmarks.load.cpu import cpu_seconds, load_average, spent_ms
from benchmarks.overhead.arm import Arm
from benchmarks.overhead.watching import watched_by

TIMEOUT_S = 60.0
# Each is one token to the zoo's models and to the encoder.
_WORDS = ("apple", "banana", "light", "night", "morning", "animal", "number", "letters", "truck", "second", "victory")


def run_round(arm: Arm, *, requests: int, concurrency: int, stream: bool) -> dict[str, Any]:
    """Sends the requests, `concurrency` at a time; milliseconds, per request where the name says so."""
    with watched_by(arm.watch):
        before = cpu_seconds(arm.pids)
        samples, seconds = asyncio.run(_send(arm, requests, concurrency, stream))
        cpu_ms = spent_ms(before, cpu_seconds(arm.pids))
    return summarise(arm, samples, seconds, cpu_ms)


def summarise(arm: Arm, samples: list[Sample], seconds: float, cpu_ms: dict[str, float]) -> dict[str, Any]:
    requests = len(samples)
    good = [sample for sample in samples if sample.ok]
    latencies = [sample.latency_s for sample in good]
    way_ms = arm.way_ms(cpu_ms)
    encoder_ms = arm.encoder_ms(cpu_ms)
    return {
        "requests": requests,
        "errors": requests - len(good),
        "requests_per_s": len(good) / seconds,
        "latency_ms_p50": _median_ms(latencies),
        "latency_ms_p99": 1e3 * float(np.percentile(latencies, 99)) if latencies else None,
        "first_byte_ms_p50": _median_ms([sample.first_byte_s for sample in good]),
        "way_cpu_ms_per_request": way_ms / requests,
        "way_cpu_ms_per_request_without_encoder": (way_ms - encoder_ms) / requests,
        "cpu_ms_per_request": (way_ms + arm.engine_ms(cpu_ms)) / requests,
        "cpu_ms_per_request_without_encoder": (way_ms - encoder_ms + arm.engine_ms(cpu_ms)) / requests,
        "cpu_ms_per_request_by_process": {kind: spent / requests for kind, spent in cpu_ms.items() if spent},
        "spans_ms_p50": _spans(good),
        "load_average": load_average(),
    }


async def _send(arm: Arm, requests: int, concurrency: int, stream: bool) -> tuple[list[Sample], float]:
    async with chat_session(TIMEOUT_S) as session:

        async def call(number: int) -> Sample:
            return await time_only(session, arm.url, body(number, stream, arm.model, arm.words), arm.headers)

        return await closed_loop(call, requests, concurrency)


def body(number: int, stream: bool, model: str, words: int = 0) -> bytes:
    preface = "".join(f"{_WORDS[(number * i) % len(_WORDS)]} " for i in range(words))
    prompt = f"{preface}What is {number % 997} plus {number % 89}?"
    fields = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return json.dumps(fields, separators=(",", ":")).encode()


def _spans(samples: list[Sample]) -> dict[str, float]:
    """Median of each span that the router reports, and of what lies outside of them: proxy, ingress, client."""
    told = [(sample, spans_ms(sample.timing)) for sample in samples if sample.timing]
    if not told:
        return {}
    names = list(told[0][1])
    found = {name: float(np.median([spans.get(name, 0.0) for _, spans in told])) for name in names}
    outside = [1e3 * sample.latency_s - sum(spans.values()) for sample, spans in told]
    return found | {"outside": float(np.median(outside))}


def _median_ms(values_s: list[float]) -> float | None:
    return 1e3 * float(np.median(values_s)) if values_s else None
