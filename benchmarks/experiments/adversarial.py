"""Batches against single requests. Every batch has a cap of budget x size; requests arrive in random order or sorted so
that the costly ones share a batch. `mip` plans each batch under its cap. Against it: one price for all requests that is
high enough for every batch to keep its cap (`per_query_capped`, the batch paper's comparison), one price that spends
the same total as `mip` really spent and keeps no cap (`per_query`), and a price per batch (`per_query_batch`). Budgets
are shares of the best single model's cost; scores are shares of its score; estimator: our head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.evaluation import Setting
from apportion.router.evaluation.arms import by_budget
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.planners import PLANNERS
from apportion.router.evaluation.realised import Realised, curve_of
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import difference, distinct, over_seeds, points, shown, side, where
from benchmarks.experiments.report import by_dataset, table

TITLE = "Adversarial: batches against single requests"
ORDERS = ("random", "adversarial")
SIZES = (16, 64, 256, 1024)
FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7)
ARMS = ("mip", "per_query_capped", "per_query", "per_query_batch")


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """All arms at every order, size and budget; `per_query` is read at what `mip` really spent."""
    records = []
    alone = curve_of(by_budget(PLANNERS["per_query"])(case, Setting(len(case.test))))
    for order in ORDERS:
        for size in (16, 64) if smoke else SIZES:
            setting = Setting(size, order)
            for fraction in FRACTIONS:
                budget = fraction * float(case.mean_paid_usd[case.best])
                found = {arm: PLANNERS[arm](case, setting, budget) for arm in ARMS}
                equal = float(alone.at(np.array(found["mip"].cost_usd))) / case.best_score
                where_ = {"order": order, "size": size, "fraction": fraction}
                records += [where_ | {"arm": arm} | _outcome(case, realised) for arm, realised in found.items()]
                records.append(where_ | {"arm": "equal_spend", "score": equal, "spend": found["mip"].cost_usd / budget})
    return records


def _outcome(case: Case, found: Realised) -> Record:
    """Score, spend as a share of the budget, and how far batches went past their caps, as planned and as paid."""
    planned, paid = (usd / found.batch_cap_usd for usd in (found.batch_planned_usd, found.batch_cost_usd))
    return {
        "score": found.score / case.best_score,
        "spend": float(found.batch_cost_usd.sum() / found.batch_cap_usd.sum()),
        "planned_over": float((planned > 1 + 1e-6).mean()),
        "planned_worst": float(planned.max()),
        "over": float((paid > 1).mean()),
        "worst": float(paid.max()),
    }


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets."""
    rows = context.measure(measure_case, ("head",), "adversarial")
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"`mip` less the others, {n}": f"adversarial-{n}.png" for n in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Differences over all budgets, overspending, and the reading."""
    return by_dataset(result, _differences, _overspending, _reading)


def _gain(rows: list[Record], arm: str, **wanted: Any) -> Summary:
    """Score of `mip` less that of the arm, mean over the budgets in `wanted`."""
    return difference(rows, "score", {"arm": "mip"}, {"arm": arm}, **wanted)


def _differences(rows: list[Record]) -> list[str]:
    headings = [
        "order, size",
        "spend of `mip`",
        "less `per_query_capped`",
        "its spend",
        "less `per_query` at equal spend",
    ]
    headings += ["less `per_query_batch`", "its spend"]
    cells = []
    for order, size in _groups(rows):
        own = where(rows, order=order, size=size)
        capped, batch = (_percent(over_seeds(own, "spend", arm=arm)) for arm in ("per_query_capped", "per_query_batch"))
        cells.append(
            [
                f"{order}, {size}", _percent(over_seeds(own, "spend", arm="mip")),
                points(_gain(own, "per_query_capped")), capped, points(_gain(own, "equal_spend")),
                points(_gain(own, "per_query_batch"), 2), batch,
            ]
        )  # fmt: skip
    about = "Points of the best single model's score by which `mip` leads, mean over the budgets of "
    about += ", ".join(f"{f:.0%}" for f in FRACTIONS) + "; spend as a share of the total of all caps."
    return [about, "", *table(headings, cells)]


def _overspending(rows: list[Record]) -> list[str]:
    headings = [
        "order, size",
        *(f"`{arm}`: {what}" for arm in ("per_query", "mip") for what in ("planned", "worst", "paid", "worst")),
    ]
    cells = []
    for order, size in _groups(rows):
        own = where(rows, order=order, size=size)
        line_ = [f"{order}, {size}"]
        for arm in ("per_query", "mip"):
            for share, worst in (("planned_over", "planned_worst"), ("over", "worst")):
                line_ += [_percent(over_seeds(own, share, arm=arm)), f"{over_seeds(own, worst, arm=arm).mean:.2f}x"]
        cells.append(line_)
    about = "Share of batches above their cap, and the worst batch's multiple of it, as planned and as really paid:"
    return [about, "", *table(headings, cells)]


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for order in distinct(rows, "order"):
        own = where(rows, order=order)
        capped, equal = _gain(own, "per_query_capped"), _gain(own, "equal_spend")
        worst = max(
            over_seeds(where(own, size=s), "planned_worst", arm="per_query").mean for s in distinct(own, "size")
        )
        said = f"- {order.capitalize()} order: with a cap on every batch, planning the batch is worth {points(capped)} "
        said += f"points over one price that keeps all caps{_unless(capped)}; against one price at equal total spend "
        said += f"{points(equal)} points{_unless(equal)}, but that one plans batches at up to {worst:.2f}x their cap."
        lines.append(said)
    cells = {
        (o, s, f): _gain(rows, "per_query_capped", order=o, size=s, fraction=f)
        for o, s in _groups(rows)
        for f in FRACTIONS
    }
    (order, size, fraction), most = max(cells.items(), key=lambda item: item[1].mean)
    said = f"- The largest lead over one price that keeps all caps: {points(most)} points ({order} order, batches of "
    lines.append(
        said + f"{size}, {fraction:.0%} of the cost); the batch paper reports up to 24 % under adversarial batching."
    )
    pairwise = _gain(rows, "per_query_batch")
    lines.append(
        f"- Against a price per batch, the program itself is worth {points(pairwise, 2)} points{_unless(pairwise)}."
    )
    equal = max((_gain(where(rows, order=o, size=s), "equal_spend") for o, s in _groups(rows)), key=lambda g: g.mean)
    if side(equal) <= 0:
        lines.append(
            "- If only the total matters and no batch has a cap of its own, batch-level routing gains no quality: do "
            "not bother. If every batch has a cap, it is the way to keep it without giving quality away."
        )
    else:
        lines.append(f"- Even at equal total spend the batch wins somewhere: up to {points(equal)} points.")
    return lines


def draw(result: dict[str, Any], folder: Path) -> None:
    """`mip` less the others by batch size, one panel an order."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        figure, axes = panels(2)
        labels = {"per_query_capped": "one price that keeps every cap", "equal_spend": "one price at equal spend"}
        labels["per_query_batch"] = "a price per batch"
        for panel, order in zip(axes, distinct(rows, "order"), strict=True):
            sizes = distinct(where(rows, order=order), "size")
            for number, (arm, label) in enumerate(labels.items()):
                gains = [_gain(where(rows, order=order, size=size), arm) for size in sizes]
                line(panel, sizes, [Summary(100 * g.mean, 100 * g.half_width, g.n) for g in gains], number, label)
            panel.axhline(0, color="0.4", linewidth=0.8)
            panel.set(
                xscale="log",
                xlabel="requests in a batch",
                ylabel="points that mip leads",
                title=f"{name}: {order} order",
            )
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.set_xticks([], minor=True)
            panel.legend(fontsize=8)
        save(figure, folder / file)


def _groups(rows: list[Record]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((r["order"], r["size"]) for r in rows))


def _unless(gain: Summary) -> str:
    return {1: "", -1: " (worse)", 0: " (no difference shown)"}[side(gain)]


def _percent(value: Summary) -> str:
    return shown(value, 1, scale=100) + " %"
