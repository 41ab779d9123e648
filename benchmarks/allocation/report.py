"""The planned allocation against simple rules for the same GPUs, from scarce to plenty, on held-out requests.

Every allocation serves the same test batches, assigned at best under its slots and tokens/s. Its score is taken at half
of what the best single model costs, which is the budget of the plans, or at the most that it can spend where that is
less. The planned one lies above another by the difference of these scores, and leads it by the difference at one spend:
that half, or the most that both can spend. Where one of them holds cheap models alone, that is less than the plan was
made for. What a model needs of a GPU is invented and stated in `benchmarks/allocation/needs.py`. Estimator: the 40
nearest neighbours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from apportion.router.evaluation.statistics import Summary
from benchmarks.allocation import measure
from benchmarks.allocation.needs import needs_of
from benchmarks.experiments.context import Context
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import Record, called, difference, distinct, over_seeds, shown, where
from benchmarks.experiments.report import table

TITLE = "Allocation: planned GPUs against simple rules"
HEADINGS = (
    "GPUs, allocation", "score", "its spend", "planned above by", "planned leads by", "at spend", "score, no budget",
    "spend, no budget", "refused", "GPUs used", "search, s",
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
    """The table, and where planning is better beyond doubt and where not."""
    lines = []
    for name in distinct(result["rows"], "dataset"):
        rows = where(result["rows"], dataset=name)
        keys = dict.fromkeys((row["n_gpus"], row["arm"]) for row in rows)
        lines += [f"### {name}", "", *table(HEADINGS, [_cells(rows, *key) for key in keys]), "", *_reading(rows), ""]
    return lines


def _above(rows: list[Record], n_gpus: int, arm: str) -> Summary:
    return difference(rows, "score", {"arm": "planned"}, {"arm": arm}, n_gpus=n_gpus)


def _cells(rows: list[Record], n_gpus: int, arm: str) -> list[str]:
    own = where(rows, n_gpus=n_gpus, arm=arm)
    spend, equal, unlimited = (_mean(own, f, 1, 100, " %") for f in ("spend", "equal_spend", "unlimited_spend"))
    beside = [shown(d, 4, signed=True) for d in (_above(rows, n_gpus, arm), over_seeds(own, "lead"))]
    return [
        f"{n_gpus}, {arm}", shown(over_seeds(own, "score"), 4), spend,
        *([*beside, equal] if arm != "planned" else ["", "", ""]), _mean(own, "unlimited_score", 4), unlimited,
        _mean(own, "refused", 1, 100, " %"), _mean(own, "gpus_used", 1), _mean(own, "plan_s", 1),
    ]  # fmt: skip


def _mean(rows: list[Record], field: str, digits: int, scale: float = 1.0, unit: str = "") -> str:
    text = shown(Summary(over_seeds(rows, field).mean, float("nan"), 1), digits, scale=scale)
    return text if text == "-" else text + unit


def _reading(rows: list[Record]) -> list[str]:
    read = []
    for arm in ("greedy", "proportional", "uniform"):
        gpus = distinct(rows, "n_gpus")
        above = {n: _above(rows, n, arm) for n in gpus}
        leads = {n: over_seeds(rows, "lead", n_gpus=n, arm=arm) for n in gpus}
        read.append(f"- Planned against {arm}: {_said(above)} GPUs. At one spend: {_said(leads)}.")
    return read


def _said(found: dict[int, Summary]) -> str:
    by_verdict: dict[str, list[str]] = {}
    for n_gpus, value in found.items():
        by_verdict.setdefault(_verdict(value), []).append(str(n_gpus))
    return "; ".join(f"{verdict} with {', '.join(n)}" for verdict, n in by_verdict.items())


def _verdict(value: Summary) -> str:
    return called(value) if math.isfinite(value.mean) else "not compared"


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
