"""The experiment: single models, `auto` at three budgets, and random mixtures at the same spends."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.e2e.client import Outcome, answer_all, first_token_s
from benchmarks.e2e.policy import read_document, set_policy
from benchmarks.e2e.report import (
    best_mixture,
    difference,
    mixture_scores,
    oracle,
    scores,
    spend_usd,
    summary,
)
from benchmarks.stamp import stamp
from benchmarks.zoo.tasks import Example, generate

# Shares of what the best single model costs.
BUDGETS = {"low": 0.25, "middle": 0.5, "full": 1.0}


def run(config: Path, url: str, prompts: int, concurrency: int, seed: int, console: Console) -> dict[str, Any]:
    """Runs every arm against the service at `url`; its policy is restored at the end.

    Args:
        config: the file that the service runs; its models are the arms, its budget is put back.
    """
    document = read_document(config)
    arguments = document["applications"][0]["args"]
    names = [model["name"] for model in arguments["models"]]
    examples = generate("test", prompts, seed)

    def ask(model_of: Any) -> list[Outcome]:
        return asyncio.run(answer_all(url, examples, model_of, concurrency=concurrency))

    singles = {name: ask(lambda _, n=name: n) for name in track(names, "single models", console=console)}
    best = max(names, key=lambda name: scores(singles[name]).mean())
    best_spend = spend_usd(singles[best])
    idle = idle_first_token(url, examples, names)
    auto: dict[str, list[Outcome]] = {}
    mixtures: dict[str, list[Outcome]] = {}
    comparisons: dict[str, Any] = {}
    try:
        for label, share in track(BUDGETS.items(), "auto and mixtures", console=console):
            set_policy(document, url, {"budget_usd_per_request": share * best_spend})
            auto[label] = ask(lambda _: "auto")
            mixture = best_mixture(singles, spend_usd(auto[label]))
            draw = random.Random(seed)
            picks = [mixture.dear if draw.random() < mixture.share else mixture.cheap for _ in examples]
            mixtures[label] = ask(lambda i, picks=picks: picks[i])
            comparisons[label] = {
                "budget_usd_per_request": share * best_spend,
                "mixture": {"cheap": mixture.cheap, "dear": mixture.dear, "share": mixture.share},
                "auto_minus_mixture": difference(scores(auto[label]), mixture_scores(singles, mixture), seed),
                "auto_minus_best_single": difference(scores(auto[label]), scores(singles[best]), seed),
            }
    finally:
        own_usd = (arguments.get("routing") or {}).get("budget_usd_per_request")
        set_policy(document, url, {"budget_usd_per_request": own_usd})
    return {
        "stamp": stamp(seed=seed),
        "prompts": prompts,
        "concurrency": concurrency,
        "best_single": best,
        "oracle": oracle(singles),
        "singles": {name: summary(outcomes) for name, outcomes in singles.items()},
        "auto": {label: summary(outcomes) for label, outcomes in auto.items()},
        "mixture": {label: summary(outcomes) for label, outcomes in mixtures.items()},
        "comparisons": comparisons,
        "idle_first_token_ms": idle,
    }


def idle_first_token(url: str, examples: list[Example], names: list[str], repeats: int = 40) -> dict[str, float]:
    """Median milliseconds to the first token of a stream, one request at a time."""
    result = {}
    for model in ["auto", *names]:
        times = asyncio.run(first_token_s(url, examples[0], model, repeats))
        result[model] = 1e3 * float(np.median(times[5:]))
    return result


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{result['prompts']} held-out prompts, {result['concurrency']} at a time")
    for column in ("arm", "right %", "USD/1000", "mix %", "p50 ms", "p95 ms", "over cap"):
        table.add_column(column, justify="left" if column in {"arm", "mix %"} else "right")
    for name, row in result["singles"].items():
        _add(table, name, row)
    for label in result["auto"]:
        _add(table, f"mixture, {label}", result["mixture"][label])
        _add(table, f"auto, {label}", result["auto"][label])
    console.print(table)
    console.print(f"per-prompt oracle {100 * result['oracle']:.1f} %; best single {result['best_single']}")
    for label, row in result["comparisons"].items():
        for name in ("auto_minus_mixture", "auto_minus_best_single"):
            gap = row[name]
            console.print(
                f"{label}: {name.replace('_', ' ')} {gap['points']:+.1f} points [{gap['low']:+.1f}, {gap['high']:+.1f}]"
            )
    console.print("idle time to first token, median ms:", result["idle_first_token_ms"])


def _add(table: Table, name: str, row: dict[str, Any]) -> None:
    mix = " ".join(f"{model} {100 * share:.0f}" for model, share in row["mix"].items())
    table.add_row(
        name,
        f"{100 * row['right']:.1f}",
        f"{row['spend_usd_per_1000']:.5f}",
        mix,
        f"{row['latency_ms_p50']:.0f}",
        f"{row['latency_ms_p95']:.0f}",
        f"{row['batches_over_cap']}/{row['batches']}",
    )
