"""The same prompts with cascades and without, at three budgets, compared at the spends that cascades have come to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from apportion.router.arrays import FloatArray
from benchmarks.e2e.client import Outcome, answer_all
from benchmarks.e2e.policy import read_document, set_policy
from benchmarks.e2e.report import difference, scores, spend_usd, summary
from benchmarks.e2e.run import BUDGETS
from benchmarks.stamp import stamp
from benchmarks.zoo.tasks import generate

ESCALATED = ">"


def run(config: Path, url: str, prompts: int, concurrency: int, seed: int, console: Console) -> dict[str, Any]:
    """Runs every arm against the service at `url`; its policy is restored at the end.

    Raises:
        RuntimeError: the artefact of the service proves no pair, so that there is nothing to compare.
    """
    document = read_document(config)
    arguments = document["applications"][0]["args"]
    routing = arguments.get("routing") or {}
    own = {
        "budget_usd_per_request": routing.get("budget_usd_per_request"),
        "cascade": routing.get("cascade", False),
    }
    examples = generate("test", prompts, seed)

    def ask(model: str) -> list[Outcome]:
        return asyncio.run(answer_all(url, examples, lambda _: model, concurrency=concurrency))

    set_policy(document, url, {"cascade": True})
    pairs = httpx.get(f"{url}/health", timeout=10).json()["cascades"]
    if not pairs:
        set_policy(document, url, own)
        raise RuntimeError(
            "the artefact of the service proves no pair of its models; name one that does as predictor.artefact, or "
            "what `python -m benchmarks unproved` writes"
        )
    names = [model["name"] for model in arguments["models"]]
    singles = {name: ask(name) for name in track(names, "single models", console=console)}
    best = max(names, key=lambda name: scores(singles[name]).mean())
    without: dict[str, list[Outcome]] = {}
    cascades: dict[str, list[Outcome]] = {}
    try:
        for label, share in track(BUDGETS.items(), "without and with cascades", console=console):
            budget_usd = share * spend_usd(singles[best])
            set_policy(document, url, {"budget_usd_per_request": budget_usd, "cascade": False})
            without[label] = ask("auto")
            set_policy(document, url, {"budget_usd_per_request": budget_usd, "cascade": True})
            cascades[label] = ask("auto")
    finally:
        set_policy(document, url, own)
    return {
        "stamp": stamp(seed=seed),
        "prompts": prompts,
        "concurrency": concurrency,
        "pairs": pairs,
        "best_single": best,
        "without": {label: summary(outcomes) for label, outcomes in without.items()},
        "with": {label: summary(outcomes) for label, outcomes in cascades.items()},
        "comparisons": {
            label: compared(list(without.values()), outcomes, singles, seed) for label, outcomes in cascades.items()
        },
    }


def compared(
    without: list[list[Outcome]], cascades: list[Outcome], singles: dict[str, list[Outcome]], seed: int
) -> dict[str, Any]:
    """What cascades gain at their spend, which share was asked on, and which of these lost a right answer by it.

    Args:
        without: the same prompts by routing alone, at several budgets.
        cascades: the prompts with cascades.
        singles: the prompts by each model: what first answers that were thrown away would have been.
    """
    asked = [i for i, one in enumerate(cascades) if ESCALATED in one.model]
    first = np.array([singles[cascades[i].model.split(ESCALATED)[0]][i].score for i in asked])
    harm = np.maximum(first - scores(cascades)[asked], 0.0).sum() / len(cascades) if asked else 0.0
    gain = scores(cascades) - at_spend(without, spend_usd(cascades))
    return {
        "gain": difference(gain, np.zeros(len(gain)), seed),
        "escalated": len(asked) / len(cascades),
        "harm": float(harm),
    }


def at_spend(arms: list[list[Outcome]], spend: float) -> FloatArray:
    """Each prompt's expected score if requests are divided between the two arms next to a spend; beyond all, the last.

    Args:
        spend: USD a request.
    """
    order = sorted(arms, key=spend_usd)
    spends = [spend_usd(arm) for arm in order]
    place = float(np.interp(spend, spends, np.arange(len(order))))
    low = min(int(place), len(order) - 2) if len(order) > 1 else 0
    high = min(low + 1, len(order) - 1)
    return (1 - (place - low)) * scores(order[low]) + (place - low) * scores(order[high])


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{result['prompts']} held-out prompts; cascades {', '.join(result['pairs'])}")
    for column in ("arm", "right %", "USD/1000", "mix %", "p50 ms", "p95 ms"):
        table.add_column(column, justify="left" if column in {"arm", "mix %"} else "right")
    for label in result["with"]:
        for arm in ("without", "with"):
            row = result[arm][label]
            table.add_row(
                f"{arm}, {label}",
                f"{100 * row['right']:.1f}",
                f"{row['spend_usd_per_1000']:.5f}",
                " ".join(f"{model} {100 * share:.0f}" for model, share in row["mix"].items()),
                f"{row['latency_ms_p50']:.0f}",
                f"{row['latency_ms_p95']:.0f}",
            )
    console.print(table)
    for label, row in result["comparisons"].items():
        gain = row["gain"]
        console.print(
            f"{label}: at equal spend {gain['points']:+.1f} points [{gain['low']:+.1f}, {gain['high']:+.1f}], "
            f"{100 * row['escalated']:.1f} % asked on, {100 * row['harm']:.1f} % lost a right answer by it"
        )
