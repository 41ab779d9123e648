"""Measures cascades: on the zoo with the signals of its engines, on other tables with verifiers of stated strength."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.evaluation.plot import unbeaten
from benchmarks.cascades.case import measure_case
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.numbers import distinct, over_seeds, side, where
from benchmarks.paths import ROOT
from benchmarks.stamp import stamp

ZOO = ROOT / "benchmarks/zoo/recorded"
CODE = ("router/cascade", "router/calibration.py", "benchmarks/cascades/follow.py", "benchmarks/cascades/signals.py")
"""What measuring depends on beside its own module."""
MOST_MODELS = 12


def run(context: Context, zoo: Path = ZOO) -> dict[str, Any]:
    """The zoo and all data sets, by seed and verifier.

    Args:
        zoo: an outcomes table that has signals.
    """
    datasets = [Dataset(zoo, context.encoder, context.cache), *map(few_models, context.datasets())]
    rows = context.measure(measure_case, ("head",), "cascades", datasets=datasets, code=CODE)
    rows = [row | {"dataset": "zoo"} if row["dataset"] == zoo.name else row for row in rows]
    lost = [list(pair) for pair in losses(rows)]
    settings = {"seeds": context.seeds, "encoder": context.encoder, "smoke": context.smoke}
    return {"stamp": stamp(**settings, work_s=round(sum(context.work_s))), "lost": lost, "rows": rows}


def few_models(dataset: Dataset) -> Dataset:
    """Of more than a dozen models those that no other beats in mean score and cost: others are hardly routed to."""
    table, _ = dataset.prepared()
    if len(table.models) <= MOST_MODELS:
        return dataset
    means = np.column_stack([table.cost_usd.mean(axis=0), table.scores.mean(axis=0)])
    kept = [model for model, (cost, score) in zip(table.models, means, strict=True) if unbeaten(means, cost, score)]
    return replace(dataset, models=tuple(kept))


def losses(rows: list[Record]) -> list[tuple[str, str]]:
    """Data sets and verifiers where pairs that passed the gate lose on test requests by more than the interval: the
    mean over budgets, of splits where there was a pair; one such split alone proves nothing.
    """
    found = []
    for name in distinct(rows, "dataset"):
        for verifier in distinct(where(rows, dataset=name, kind="gate"), "verifier"):
            own = where(rows, dataset=name, verifier=verifier)
            opened = {r["seed"] for r in where(own, kind="gate") if r["pairs_offered"]}
            gains = [r for r in where(own, kind="gain", pairs="gated") if r["seed"] in opened and r["gain"] is not None]
            if opened and side(over_seeds(gains, "gain")) < 0:
                found.append((name, verifier))
    return found
