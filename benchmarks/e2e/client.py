"""Sends graded prompts to the service through OpenAI's own client and keeps what came back of each."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openai import APIStatusError, AsyncOpenAI

from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import MAX_ANSWER_TOKENS, Example

REFUSED = 402  # the batch's cap could not pay for any model: no answer, no cost


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered prompt; `cost_usd` is what was settled, `planned_usd` what was expected."""

    model: str
    score: float
    cost_usd: float
    planned_usd: float
    predicted: float
    rung: str
    batch: int
    batch_planned_usd: float
    batch_cap_usd: float
    latency_s: float


async def answer_all(
    url: str, examples: Sequence[Example], model_of: Callable[[int], str], *, concurrency: int
) -> list[Outcome]:
    """Asks every prompt of the model that `model_of(index)` names, `concurrency` at a time, in order."""
    seats = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:

        async def ask(index: int, example: Example) -> Outcome:
            async with seats:
                return await answer_one(client, example, model_of(index))

        return list(await asyncio.gather(*(ask(i, example) for i, example in enumerate(examples))))


async def answer_one(client: AsyncOpenAI, example: Example, model: str) -> Outcome:
    started_s = time.perf_counter()
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": example.prompt}],
            temperature=0,
            max_tokens=MAX_ANSWER_TOKENS,
        )
    except APIStatusError as error:
        if error.status_code != REFUSED:
            raise
        return Outcome("(refused)", 0.0, 0.0, 0.0, 0.0, "-", -1, 0.0, 0.0, time.perf_counter() - started_s)
    latency_s = time.perf_counter() - started_s
    headers = raw.headers
    batch = dict(re.findall(r"([\w-]+)=([^;]+)", headers["x-router-batch"]))
    return Outcome(
        model=headers["x-router-model"],
        score=grade(raw.parse().choices[0].message.content or "", example),
        cost_usd=float(headers["x-router-settled-cost-usd"]),
        planned_usd=float(headers["x-router-cost-usd"]),
        predicted=float(headers["x-router-success"]),
        rung=headers["x-router-rung"],
        batch=int(batch["id"]),
        batch_planned_usd=float(batch["planned-usd"]),
        batch_cap_usd=float(batch["cap-usd"]),
        latency_s=latency_s,
    )


async def first_token_s(url: str, example: Example, model: str, repeats: int) -> list[float]:
    """Seconds to the first token of a stream, one request after the other on an idle service."""
    times = []
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        for _ in range(repeats):
            started_s = time.perf_counter()
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": example.prompt}],
                temperature=0,
                max_tokens=MAX_ANSWER_TOKENS,
                stream=True,
            )
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    times.append(time.perf_counter() - started_s)
                    break
            async for _ in stream:
                pass
    return times
