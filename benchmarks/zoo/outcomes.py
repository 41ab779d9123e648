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
from rich.console import Console
from rich.progress import track

from apportion.deployments.config.reader import read_config
from apportion.deployments.wire.logprobs import asking_for_logprobs
from apportion.router.arrays import FloatArray
from apportion.router.outcomes import OutcomesTable, read_outcomes, write_outcomes
from apportion.router.signals import SIGNALS, signals_array
from benchmarks.load.chat import Answer, ask_all, greedy_chat
from benchmarks.zoo.grader import grade
from benchmarks.zoo.tasks import MAX_ANSWER_TOKENS, Example, Split, generate

TIMEOUT_S = 300.0


async def answers_of(
    url: str, model: str, examples: Sequence[Example], concurrency: int, max_tokens: int
) -> list[Answer]:
    """Asks one model, or variant, every prompt, greedily, in order, and how sure it was.

    Raises:
        RuntimeError: a request failed.
    """
    bodies = [asking_for_logprobs(greedy_chat(example.prompt, model, max_tokens)) for example in examples]
    answers = await ask_all(url, bodies, concurrency=concurrency, timeout_s=TIMEOUT_S)
    for answer in answers:
        if answer.error:
            raise RuntimeError(f"{model} failed: {answer.error}")
    return answers


@dataclass(frozen=True, slots=True)
class _Found:
    """What the models of `names` made of N prompts: arrays (N, M), and signals (N, M, 4)."""

    names: list[str]
    scores: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    signals: FloatArray

    @classmethod
    def nothing(cls, prompts: int, names: list[str]) -> _Found:
        """As long as nobody was asked."""
        scores, input_tokens, output_tokens = np.zeros((3, prompts, len(names)))
        signals = np.full((prompts, len(names), len(SIGNALS)), np.nan)
        return cls(names, scores, input_tokens, output_tokens, signals)

    def keep(self, table: OutcomesTable) -> None:
        """Take the columns of an earlier table."""
        columns = [self.names.index(name) for name in table.models]
        self.scores[:, columns] = table.scores
        self.input_tokens[:, columns] = table.input_tokens
        self.output_tokens[:, columns] = table.output_tokens
        if table.signals is not None:
            self.signals[:, columns] = table.signals

    def add(self, name: str, answers: Sequence[Answer], examples: Sequence[Example]) -> None:
        """Grade one model's answers."""
        column = self.names.index(name)
        self.scores[:, column] = [grade(one.text, example) for one, example in zip(answers, examples, strict=True)]
        self.input_tokens[:, column] = [one.input_tokens for one in answers]
        self.output_tokens[:, column] = [one.output_tokens for one in answers]
        self.signals[:, column] = signals_array([one.signals for one in answers])


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
        only: models, or variants, to ask; the other columns stay as they stand in `out`, which need not know those
            that are asked. Empty: all are asked. A variant may answer as long as its own `max_tokens` says.

    Raises:
        ValueError: `only` names no model, or `out` holds outcomes of other prompts or models.
    """
    models = read_config(config).service.columns
    limits = {model.name: model.max_tokens or MAX_ANSWER_TOKENS for model in models}
    names = [model.name for model in models]
    examples = generate(split, prompts, seed)
    before = read_outcomes(out) if only else None
    if not set(only) <= set(names):
        raise ValueError(f"only: no model {', '.join(set(only) - set(names))}; choose from {', '.join(names)}")
    found = _Found.nothing(len(examples), names)
    if before is not None:
        if before.prompts != [example.prompt for example in examples] or set(names) != {*before.models, *only}:
            raise ValueError(
                f"{out} holds outcomes of other prompts or models; give its number of prompts, or ask all models"
            )
        found.keep(before)
    for name in track(only or names, "asking the models", console=console):
        answers = asyncio.run(answers_of(url, name, examples, concurrency, limits[name]))
        found.add(name, answers, examples)
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
        scores=found.scores,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        cost_usd=found.input_tokens * input_usd + found.output_tokens * output_usd,
        prices=prices,
        signals=found.signals,
    )
    write_outcomes(table, out)
    return table
