"""Outcomes of the zoo: every predictor prompt answered by every served engine, as an outcomes table.

The predictor learns from what the engines really answered and counted, over the same HTTP that users call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from openai import AsyncOpenAI
from rich.console import Console
from rich.progress import track

from apportion.deployments.config.reader import read_config
from apportion.router.outcomes import OutcomesTable, write_outcomes
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import MAX_ANSWER_TOKENS, Example, Split, generate


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its grade, and the tokens that the engine counted."""

    score: float
    input_tokens: int
    output_tokens: int


async def ask_all(url: str, model: str, examples: Sequence[Example], concurrency: int) -> list[Answer]:
    """Asks one model every prompt, greedily, in order."""
    seats = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:

        async def ask(example: Example) -> Answer:
            async with seats:
                completion = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": example.prompt}],
                    temperature=0,
                    max_tokens=MAX_ANSWER_TOKENS,
                )
            usage = completion.usage
            if usage is None:
                raise RuntimeError(f"{model} answered without usage")
            score = grade(completion.choices[0].message.content or "", example)
            return Answer(score, usage.prompt_tokens, usage.completion_tokens)

        return list(await asyncio.gather(*(ask(example) for example in examples)))


def collect(
    config: Path, url: str, out: Path, *, split: Split, prompts: int, seed: int, concurrency: int, console: Console
) -> OutcomesTable:
    """Collects the table from the service at `url` and saves it in the folder `out`."""
    models = read_config(config).service.models
    examples = generate(split, prompts, seed)
    answers = [
        asyncio.run(ask_all(url, model.name, examples, concurrency))
        for model in track(models, "asking the models", console=console)
    ]
    scores, input_tokens, output_tokens = (
        np.array([[getattr(answer, name) for answer in column] for column in answers], dtype=float).T
        for name in ("score", "input_tokens", "output_tokens")
    )
    prices = {model.name: model.price for model in models}
    input_usd = np.array([price.input_usd_per_million for price in prices.values()]) / 1e6
    output_usd = np.array([price.output_usd_per_million for price in prices.values()]) / 1e6
    table = OutcomesTable(
        queries=pd.DataFrame(
            {
                "query_id": [f"{split}-{seed}-{i}" for i in range(len(examples))],
                "task": [example.task for example in examples],
                "prompt": [example.prompt for example in examples],
                "difficulty": [example.difficulty for example in examples],
            }
        ),
        models=tuple(prices),
        scores=scores,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=input_tokens * input_usd + output_tokens * output_usd,
        prices=prices,
    )
    write_outcomes(table, out)
    return table
