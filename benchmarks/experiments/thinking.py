"""A model that can think in the pool with models that cannot, at equal realised spend: outcomes of real engines.

crane is a model of the zoo that was trained to answer at once (`crane@direct`) and to write its steps first
(`crane@think`). Its engine answered the 3,000 prompts of which the other four models' answers are recorded, in both
ways; nothing here is simulated. A token of it costs what one of heron's does, which is as large, and thoughts are paid.
Budgets are shares of the cost of the best of the four alone, scores those of the test requests of each split, in random
batches of 256 without limits on slots. Estimator: our head, trained on the outcomes of each pool.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apportion.router.evaluation import ARMS, Setting
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.realised import curve_of
from apportion.router.outcomes import read_outcomes, write_outcomes
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.variants import variant_name
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import called, difference, over_seeds, points, shown
from benchmarks.experiments.report import table
from benchmarks.paths import ROOT

TITLE = "A model that can think: how much of it a request is worth (real engines)"
RECORDED = ROOT / "benchmarks/zoo/recorded_thinking"
FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
FOUR = ("wren", "finch", "lark", "heron")
SMOKE_ROWS = 240
WAYS = ("direct", "think")
DIRECT, THINK = (variant_name("crane", way) for way in WAYS)
ALONE, NEVER, ALWAYS, POOL = "the four", "with crane, direct", "with crane, always thinking", "with crane in both ways"
CHOICES = {ALONE: FOUR, NEVER: (*FOUR, DIRECT), ALWAYS: (*FOUR, THINK), POOL: (*FOUR, DIRECT, THINK)}


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """The score at each budget of what may choose from some of the columns."""
    four, _ = replace(dataset, models=FOUR).prepared()
    known = np.ones(len(four), dtype=bool)
    known[case.test_rows] = False
    best = int(four.scores[known].mean(axis=0).argmax())
    cost_usd = float(four.cost_usd[case.test_rows, best].mean())
    found = curve_of(ARMS["mip"](case, Setting(32 if smoke else 256))).at(np.array(FRACTIONS) * cost_usd)
    arm = next(name for name, models in CHOICES.items() if models == dataset.models)
    return [
        {"arm": arm, "fraction": fraction, "score": None if np.isnan(score) else score}
        for fraction, score in zip(FRACTIONS, found.tolist(), strict=True)
    ]


def run(context: Context) -> dict[str, Any]:
    """Measure on the recorded zoo, whatever other data there are."""
    folder, everything = RECORDED, read_outcomes(RECORDED)
    if context.smoke:
        folder, everything = context.cache.folder / "thinking", everything.subset(np.arange(SMOKE_ROWS))
        write_outcomes(everything, folder)
    pools = [Dataset(folder, context.encoder, context.cache, models) for models in CHOICES.values()]
    return {
        "ways": _ways(everything),
        "tasks": _tasks(everything),
        "rows": context.measure(measure_case, ("head",), "thinking", datasets=pools),
        "plots": {"Score against spend": "thinking.png"},
    }


def _ways(outcomes: OutcomesTable) -> list[Record]:
    """What each column did over all prompts: mean score, tokens and cost of an answer."""
    means = (outcomes.scores, outcomes.output_tokens, outcomes.cost_usd)
    by_column = zip(outcomes.models, *(values.mean(axis=0).tolist() for values in means), strict=True)
    names = ("model", "score", "output_tokens", "cost_usd")
    return [dict(zip(names, found, strict=True)) for found in by_column]


def _tasks(outcomes: OutcomesTable) -> list[Record]:
    """What crane did on each task's prompts in both ways: mean score and tokens of an answer."""
    crane = outcomes.select_models([DIRECT, THINK])
    names = ("direct", "think", "direct_tokens", "think_tokens")
    columns = pd.DataFrame(np.hstack([crane.scores, crane.output_tokens]), columns=names)
    means = columns.groupby(crane.queries["task"].to_numpy()).mean()
    return [dict(zip(("task", *names), row, strict=True)) for row in means.itertuples()]


def section(result: dict[str, Any]) -> list[str]:
    """What each way does and costs alone, where thinking helps, and scores of the pools at every budget."""
    return [*_alone(result["ways"]), "", *_where(result["tasks"]), "", *_pools(result["rows"])]


def _alone(ways: list[Record]) -> list[str]:
    cells = [
        [f"`{way['model']}`", f"{way['score']:.3f}", f"{way['output_tokens']:.1f}", f"{1e6 * way['cost_usd']:.1f}"]
        for way in ways
    ]
    return ["Every prompt asked of one:", "", *table(["asked", "score", "output tokens", "USD a million"], cells)]


def _where(tasks: list[Record]) -> list[str]:
    cells = [
        [one["task"], *(f"{100 * one[way]:.0f}" for way in WAYS), *(f"{one[f'{way}_tokens']:.1f}" for way in WAYS)]
        for one in sorted(tasks, key=lambda one: one["direct"] - one["think"])
    ]
    headings = ["task", "right directly, %", "right after thinking, %", "tokens directly", "tokens with thoughts"]
    return ["crane by task:", "", *table(headings, cells)]


def _pools(rows: list[Record]) -> list[str]:
    headings = ["may choose from", *(f"{fraction:.0%}" for fraction in FRACTIONS)]
    cells = [
        [arm, *(shown(over_seeds(rows, "score", arm=arm, fraction=fraction)) for fraction in FRACTIONS)]
        for arm in CHOICES
    ]
    lines = []
    for arm in (ALONE, NEVER, ALWAYS):
        gains = [(f, difference(rows, "score", {"arm": POOL}, {"arm": arm}, fraction=f)) for f in FRACTIONS]
        told = [f"{points(gain)} at {f:.0%} ({called(gain)})" for f, gain in gains if math.isfinite(gain.mean)]
        lines.append(f"- {POOL.capitalize()}, less {arm}, in points: {'; '.join(told)}.")
    return [
        "Score by budget, a share of the cost of the best of the four (a dash: cannot spend as little):",
        "",
        *table(headings, cells),
        "",
        *lines,
    ]


def draw(result: dict[str, Any], folder: Path) -> None:
    """Scores of the pools against spend."""
    figure, axes = panels(1, columns=1, width=6.0)
    for number, arm in enumerate(CHOICES):
        scores = [over_seeds(result["rows"], "score", arm=arm, fraction=fraction) for fraction in FRACTIONS]
        line(axes[0], FRACTIONS, scores, number, arm)
    axes[0].set(xscale="log", xlabel="spend, share of the cost of the best of the four", ylabel="score")
    axes[0].legend(fontsize=8)
    save(figure, folder / result["plots"]["Score against spend"])
