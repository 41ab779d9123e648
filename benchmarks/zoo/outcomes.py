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

from apportion.deployments.config.reader import read_config
from apportion.deployments.wire.logprobs import asking_for_logprobs
from apportion.router.outcomes import OutcomesTable, read_outcomes, write_outcomes
from apportion.router.signals import SIGNALS, signals_array
from benchmarks.load.chat import Answer, ask_all, greedy_chat
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import MAX_ANSWER_TOKENS, Example, Split, generate

TIMEOUT_S = 300.0


async def answers_of(url: str, model: str, examples: Sequence[Example], concurrency: int) -> list[Answer]:
    """Asks one model every prompt, greedily, in order, and how sure it was.

    Raises:
        RuntimeError: a request failed.
    """
    bodies = [asking_for_logprobs(greedy_chat(example.prompt, model, MAX_ANSWER_TOKENS)) for example in examples]
    answers = await ask_all(url, bodies, concurrency=concurrency, timeout_s=TIMEOUT_S)
    for answer in answers:
        if answer.error:
            raise RuntimeError(f"{model} failed: {answer.error}")
    return answers


def collect(
    config: Path,
    url: str,
    out: Path,
    *,
    split: Split,
    prompts: int,
    seed: int,
    concurrency: int,
    console: Console,
    only: Sequence[str] = (),
) -> OutcomesTable:
    """Collects the table from the service at `url` and saves it in the folder `out`.

    Args:
        only: models to ask; the other columns stay as they stand in `out`. Empty: all are asked.

    Raises:
        ValueError: `only` names no model, or `out` holds outcomes of other prompts or models.
    """
    models = read_config(config).service.models
    names = [model.name for model in models]
    examples = generate(split, prompts, seed)
    before = read_outcomes(out) if only else None
    if not set(only) <= set(names):
        raise ValueError(f"only: no model {', '.join(set(only) - set(names))}; choose from {', '.join(names)}")
    if before is not None and (list(before.models), before.prompts) != (names, [one.prompt for one in examples]):
        raise ValueError(
            f"{out} holds outcomes of other prompts or models; give its number of prompts, or ask all models"
        )
    kept = None if before is None else (before.scores, before.input_tokens, before.output_tokens)
    scores, input_tokens, output_tokens = np.zeros((3, len(examples), len(names))) if kept is None else np.stack(kept)
    signals = np.full((len(examples), len(names), len(SIGNALS)), np.nan)
    if before is not None and before.signals is not None:
        signals = before.signals.copy()
    for name in track(only or names, "asking the models", console=console):
        answers, column = asyncio.run(answers_of(url, name, examples, concurrency)), names.index(name)
        scores[:, column] = [grade(one.text, example) for one, example in zip(answers, examples, strict=True)]
        input_tokens[:, column] = [one.input_tokens for one in answers]
        output_tokens[:, column] = [one.output_tokens for one in answers]
        signals[:, column] = signals_array([one.signals for one in answers])
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
        signals=signals,
    )
    write_outcomes(table, out)
    return table
