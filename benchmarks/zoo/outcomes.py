"""Outcomes of the zoo: every predictor prompt answered by every served engine, as an outcomes table.

The predictor learns from what the engines really answered and counted, over the same HTTP that users call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from apportion.deployments.cluster.launch import read_config
from apportion.router.outcomes import OutcomesTable, write_outcomes
from benchmarks.load.chat import Answer, ask_all, greedy_chat
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import MAX_ANSWER_TOKENS, Example, Split, generate

TIMEOUT_S = 300.0


async def answers_of(url: str, model: str, examples: Sequence[Example], concurrency: int) -> list[Answer]:
    """Asks one model every prompt, greedily, in order.

    Raises:
        RuntimeError: a request failed.
    """
    bodies = [greedy_chat(example.prompt, model, MAX_ANSWER_TOKENS) for example in examples]
    answers = await ask_all(url, bodies, concurrency=concurrency, timeout_s=TIMEOUT_S)
    for answer in answers:
        if answer.error:
            raise RuntimeError(f"{model} failed: {answer.error}")
    return answers


def collect(
    config: Path, url: str, out: Path, *, split: Split, prompts: int, seed: int, concurrency: int, console: Console
) -> OutcomesTable:
    """Collects the table from the service at `url` and saves it in the folder `out`."""
    models = read_config(config)[1].models
    examples = generate(split, prompts, seed)
    answers = [
        asyncio.run(answers_of(url, model.name, examples, concurrency))
        for model in track(models, "asking the models", console=console)
    ]
    scores = np.array([list(map(grade, (answer.text for answer in column), examples)) for column in answers], float).T
    input_tokens, output_tokens = (
        np.array([[getattr(answer, name) for answer in column] for column in answers], float).T
        for name in ("input_tokens", "output_tokens")
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
