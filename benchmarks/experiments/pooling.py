"""Batches of every size under one cap a request: each with its own requests' money only, or with what those before it
left, as the service does with `routing.pool_requests`. Beside both the whole test split as one batch, by the same
estimates and read at the same real spend, so that thrift is no fault. Requests come in random order; a batch has as
many as a Poisson draw says. Real costs are paid, expected ones planned. Estimator: our head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.assignment import Mip
from apportion.router.batch.money.savings import Savings
from apportion.router.evaluation import Setting
from apportion.router.evaluation.arms import by_budget
from apportion.router.evaluation.batches import batch_problem
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.planners import GAP, PLANNERS
from apportion.router.evaluation.realised import chosen, curve_of
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import difference, distinct, over_seeds, points, shown, where
from benchmarks.experiments.report import by_dataset, table

TITLE = "Small batches: a cap for each, and one that is pooled"
SIZES = (1, 3, 8, 32, 256)
FRACTIONS = (0.1, 0.3, 0.5)
POOLS = {"by itself": 0, "pooled": 256}


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Batches of every size at every budget, with and without what others have left."""
    records = []
    at_once = curve_of(by_budget(PLANNERS["mip"])(case, Setting(len(case.test))))
    for size in SIZES[-2:] if smoke else SIZES:
        batches = stream_of(case, size)
        for fraction in FRACTIONS:
            each_usd = fraction * float(case.mean_paid_usd[case.best])
            for name, most in POOLS.items():
                model = follow(case, batches, each_usd, most)
                rows = np.arange(len(model))
                paid_usd, score = case.test.paid_usd[rows, model].mean(), case.test.score[rows, model].mean()
                same_spend = np.interp(paid_usd, at_once.cost_usd, at_once.score)
                records.append(
                    {
                        "size": size,
                        "fraction": fraction,
                        "money": name,
                        "score": float(score) / case.best_score,
                        "less_at_once": float(score - same_spend) / case.best_score,
                        "spend": float(paid_usd) / each_usd,
                    }
                )
    return records


def stream_of(case: Case, size: int) -> list[IntArray]:
    """Row numbers of the test requests, batch by batch."""
    rng = np.random.default_rng([case.seed, size])
    n = len(case.test)
    sizes = np.ones(n, np.int64) if size == 1 else np.maximum(rng.poisson(size, n), 1)
    ends = np.cumsum(sizes)
    return [part for part in np.split(rng.permutation(n), ends[ends < n]) if len(part)]


def follow(case: Case, batches: list[IntArray], each_usd: float, most: int) -> IntArray:
    """The models (n_test,) of the requests, each batch within its allowance; `most` 0: nothing is left to it."""
    test, savings = case.test, Savings()
    model = np.zeros(len(test), np.int64)
    slots = np.full(len(case.models), len(test), np.int64)
    for number, rows in enumerate(batches):
        success, cost_usd = test.estimates.success[rows], test.estimates.cost_usd[rows]
        allowance_usd = len(rows) * each_usd
        if most:
            allowance_usd = savings.allowance_usd(success, cost_usd, each_usd, scarce=False)
        model[rows] = chosen(batch_problem(test, rows, slots, allowance_usd), Mip(GAP), number)
        planned_usd = float(cost_usd[np.arange(len(rows)), model[rows]].sum())
        savings.take(success, cost_usd, planned_usd, each_usd, most)
    return model


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets."""
    rows = context.measure(measure_case, ("head",), "pooling")
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"Behind one batch of all, {n}": f"pooling-{n}.png" for n in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Score and spend by batch size, with and without what others have left, and the difference."""
    return by_dataset(result, _table, _reading)


def _table(rows: list[Record]) -> list[str]:
    headings = ["budget", "requests a batch"]
    headings += [f"{what}, {name}" for name in POOLS for what in ("score", "spend", "points to one batch of all")]
    headings += ["pooled less by itself, points"]
    cells = []
    for fraction in FRACTIONS:
        for size in distinct(rows, "size"):
            own = where(rows, fraction=fraction, size=size)
            cell = [f"{fraction:.0%}", str(size)]
            for name in POOLS:
                cell.append(shown(over_seeds(own, "score", money=name)))
                cell.append(shown(over_seeds(own, "spend", money=name), 1, scale=100) + " %")
                cell.append(points(over_seeds(own, "less_at_once", money=name), 2))
            cells.append([*cell, points(_gain(own), 2)])
    about = (
        "Budget as a share of the best single model's cost, score of its score; spend as a share of the budget. The "
    )
    about += "points to one batch of all requests are at equal spend."
    return [about, "", *table(headings, cells)]


def _gain(rows: list[Record]) -> Summary:
    return difference(rows, "score", {"money": "pooled"}, {"money": "by itself"})


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for size in distinct(rows, "size"):
        own = where(rows, size=size)
        spends = {name: over_seeds(where(own, money=name), "spend").mean for name in POOLS}
        lines.append(
            f"- {size} a batch: pooled money brings {points(_gain(own), 1)} points, and {spends['pooled']:.0%} of it "
            f"is spent in place of {spends['by itself']:.0%}."
        )
    return lines


def draw(result: dict[str, Any], folder: Path) -> None:
    """Points behind one batch of all requests by batch size, one panel a budget."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        figure, axes = panels(len(FRACTIONS), columns=3, width=4.4)
        for panel, fraction in zip(axes, FRACTIONS, strict=True):
            sizes = distinct(rows, "size")
            for number, money in enumerate(POOLS):
                behind = [over_seeds(rows, "less_at_once", money=money, size=s, fraction=fraction) for s in sizes]
                line(panel, sizes, [Summary(100 * g.mean, 100 * g.half_width, g.n) for g in behind], number, money)
            panel.axhline(0, color="0.4", linewidth=0.8)
            panel.set(xlabel="requests a batch", ylabel="points to one batch of all", xscale="log")
            panel.set_title(f"{name}: {fraction:.0%} of the best model's cost", fontsize=9)
        axes[0].legend(fontsize=8)
        save(figure, folder / file)
