"""The planned allocation against simple rules for the same GPUs, from scarce to plenty, on held-out requests.

Every allocation serves the same test batches, assigned at best under its slots and tokens/s. Its score is taken at half
of what the best single model costs, or at the most that it can spend where that is less; the planned one leads by the
difference at one spend, which is that half, or the most that both can spend. What a model needs of a GPU is invented
and stated in `benchmarks/allocation/needs.py`. Estimator: the 40 nearest neighbours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.allocation import measure
from benchmarks.allocation.needs import needs_of
from benchmarks.quality.context import Context
from benchmarks.quality.drawing import line, panels, save
from benchmarks.quality.numbers import Record, called, distinct, over_seeds, shown, where
from benchmarks.quality.report import table
from router.evaluation.statistics import Summary

TITLE = "Allocation: planned GPUs against simple rules"
HEADINGS = (
    "GPUs, allocation", "score", "its spend", "planned leads by", "at spend", "score, no budget", "spend, no budget",
    "refused", "GPUs used", "search, s",
)  # fmt: skip
# What measures beside the module of `measure_case`, whose own source is looked at anyway.
CODE = ("allocation", "benchmarks/allocation/baselines.py", "benchmarks/allocation/held_out.py",
        "benchmarks/allocation/needs.py")  # fmt: skip


def run(context: Context) -> dict[str, Any]:
    """Measure on all data sets, each with the models whose needs are stated."""
    datasets, needs = [], {}
    for dataset in context.datasets():
        needs[dataset.name] = needs_of(dataset.name, dataset.prepared()[0])
        datasets.append(replace(dataset, models=tuple(needs[dataset.name])))
    rows = context.measure(measure.measure_case, ("knn-40",), "allocation", datasets=datasets, code=CODE)
    settings = asdict(measure.SMOKE if context.smoke else measure.FULL) | {
        "gpu": measure.GPU, "node_gpus": measure.NODE_GPUS, "best_alone_gpus": measure.BEST_ALONE_GPUS,
        "budget_share": measure.BUDGET_SHARE, "quantile": measure.QUANTILE, "gap": measure.GAP, "needs": needs,
    }  # fmt: skip
    return {"settings": settings, "rows": rows, "plots": {"Score against GPUs": "allocation.png"}}


def section(result: dict[str, Any]) -> list[str]:
    """The table, and where planning leads beyond doubt and where not."""
    lines = []
    for name in distinct(result["rows"], "dataset"):
        rows = where(result["rows"], dataset=name)
        keys = dict.fromkeys((row["n_gpus"], row["arm"]) for row in rows)
        cells = [_cells(n_gpus, arm, where(rows, n_gpus=n_gpus, arm=arm)) for n_gpus, arm in keys]
        lines += [f"### {name}", "", *table(HEADINGS, cells), "", *_reading(rows), ""]
    return lines


def _cells(n_gpus: int, arm: str, rows: list[Record]) -> list[str]:
    spend, equal, unlimited = (_mean(rows, f, 1, 100, " %") for f in ("spend", "equal_spend", "unlimited_spend"))
    lead = [shown(over_seeds(rows, "lead"), 4, signed=True), equal] if arm != "planned" else ["", ""]
    return [
        f"{n_gpus}, {arm}", shown(over_seeds(rows, "score"), 4), spend, *lead, _mean(rows, "unlimited_score", 4),
        unlimited, _mean(rows, "refused", 1, 100, " %"), _mean(rows, "gpus_used", 1), _mean(rows, "plan_s", 1),
    ]  # fmt: skip


def _mean(rows: list[Record], field: str, digits: int, scale: float = 1.0, unit: str = "") -> str:
    text = shown(Summary(over_seeds(rows, field).mean, float("nan"), 1), digits, scale=scale)
    return text if text == "-" else text + unit


def _reading(rows: list[Record]) -> list[str]:
    read = []
    for arm in ("greedy", "proportional", "uniform"):
        leads = {n: over_seeds(rows, "lead", n_gpus=n, arm=arm) for n in distinct(rows, "n_gpus")}
        by_verdict: dict[str, list[str]] = {}
        for n, lead in leads.items():
            by_verdict.setdefault(_verdict(lead), []).append(str(n))
        said = [f"{verdict} with {', '.join(n)}" for verdict, n in by_verdict.items()]
        read.append(f"- Planned against {arm}: {'; '.join(said)} GPUs.")
    return read


def _verdict(lead: Summary) -> str:
    return called(lead) if math.isfinite(lead.mean) else "not compared at equal spend"


def draw(result: dict[str, Any], folder: Path) -> None:
    """Score against GPUs, a panel a data set, with 95 % intervals over seeds."""
    names = distinct(result["rows"], "dataset")
    figure, axes = panels(len(names))
    for panel, name in zip(axes, names, strict=True):
        rows = where(result["rows"], dataset=name)
        gpus = distinct(rows, "n_gpus")
        for number, arm in enumerate(distinct(rows, "arm")):
            line(panel, gpus, [over_seeds(rows, "score", n_gpus=n, arm=arm) for n in gpus], number, arm)
        panel.set(xscale="log", xlabel="GPUs", ylabel="score", title=name)
        panel.set_xticks(gpus, [str(n) for n in gpus])
        panel.minorticks_off()
    axes[0].legend(fontsize=8)
    save(figure, folder / "allocation.png")
