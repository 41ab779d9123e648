"""The planned allocation against simple rules for the same GPUs, from scarce to plenty, on held-out requests.

Every allocation serves the same test batches, assigned at best under its slots and tokens/s; scores are taken at half
of what the best single model costs, or at the most that an allocation can spend where it cannot spend that much. What
a model needs of a GPU is invented and stated in `benchmarks/allocation/needs.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.quality.report import table
from router.evaluation.plot import COLOURS
from router.evaluation.statistics import Summary

Rows = list[dict[str, Any]]
TITLE = "Allocation: planned GPUs against simple rules"
HEADINGS = ("data", "GPUs", "allocation", "score", "planned leads by", "no budget", "refused", "GPUs used", "search, s")


def summary(rows: Rows) -> list[dict[str, Any]]:
    """For each data set, number of GPUs and arm: means over seeds, and the planned arm's lead paired by seed."""
    result = []
    for data, n_gpus, arm in dict.fromkeys((row["data"], row["n_gpus"], row["arm"]) for row in rows):
        own = _of(rows, data, n_gpus, arm)
        planned = _of(rows, data, n_gpus, "planned")
        score = Summary.of([row["score"] for row in own])
        lead = Summary.of([p["score"] - o["score"] for p, o in zip(planned, own, strict=True)])
        entry = {"data": data, "n_gpus": n_gpus, "arm": arm, "seeds": score.n}
        entry |= {"score": score.mean, "score_half_width": score.half_width}
        if arm != "planned":
            entry |= {"planned_leads_by": lead.mean, "lead_half_width": lead.half_width}
        for name in ("unlimited_score", "refused", "gpus_used", "plan_s"):
            entry[name] = float(np.mean([row[name] for row in own]))
        result.append(entry)
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print the summary."""
    shown = Table(title="Score at half of the best single model's spend, held-out requests")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("data", "allocation") else "right")
    for cells in lines(result):
        shown.add_row(*cells)
    console.print(shown)


def lines(result: dict[str, Any]) -> list[list[str]]:
    """The summary as cells."""
    return [
        [
            row["data"],
            str(row["n_gpus"]),
            row["arm"],
            f"{row['score']:.4f} ± {row['score_half_width']:.4f}",
            f"{row['planned_leads_by']:+.4f} ± {row['lead_half_width']:.4f}" if "planned_leads_by" in row else "",
            f"{row['unlimited_score']:.4f}",
            f"{row['refused']:.1%}",
            f"{row['gpus_used']:.1f}",
            f"{row['plan_s']:.1f}",
        ]
        for row in result["summary"]
    ]


def section(result: dict[str, Any]) -> list[str]:
    """Lines of Markdown: the table, and where planning leads beyond doubt and where not."""
    return [*table(HEADINGS, lines(result)), "", *_reading(result)]


def _reading(result: dict[str, Any]) -> list[str]:
    read = []
    for data in dict.fromkeys(row["data"] for row in result["summary"]):
        for arm in ("greedy", "proportional", "uniform"):
            own = [row for row in result["summary"] if (row["data"], row["arm"]) == (data, arm)]
            verdicts = {
                "better": [r["n_gpus"] for r in own if r["planned_leads_by"] > r["lead_half_width"]],
                "worse": [r["n_gpus"] for r in own if r["planned_leads_by"] < -r["lead_half_width"]],
            }
            rest = [r["n_gpus"] for r in own if r["n_gpus"] not in verdicts["better"] + verdicts["worse"]]
            said = [f"{word} with {_listed(n)}" for word, n in verdicts.items() if n]
            said += [f"no difference shown with {_listed(rest)}"] if rest else []
            read.append(f"- {data}, planned against {arm}: {'; '.join(said)} GPUs.")
    return read


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def draw(result: dict[str, Any], file: Path) -> None:
    """Score against GPUs, a panel a data set, with 95 % intervals over seeds."""
    from matplotlib.figure import Figure

    sets = list(dict.fromkeys(row["data"] for row in result["summary"]))
    figure = Figure(figsize=(5 * len(sets), 4), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, data in zip(panels, sets, strict=True):
        arms = dict.fromkeys(row["arm"] for row in result["summary"] if row["data"] == data)
        for colour, arm in zip(COLOURS, arms, strict=False):
            own = [row for row in result["summary"] if row["data"] == data and row["arm"] == arm]
            gpus, score = np.array([row["n_gpus"] for row in own]), np.array([row["score"] for row in own])
            half = np.nan_to_num([row["score_half_width"] for row in own])
            axes.plot(gpus, score, color=colour, marker="o", markersize=3, label=arm)
            axes.fill_between(gpus, score - half, score + half, color=colour, alpha=0.12, linewidth=0)
        axes.set(xscale="log", xlabel="GPUs", ylabel="score", title=data)
        axes.set_xticks(gpus, [str(n) for n in gpus])
        axes.minorticks_off()
    panels[0].legend(fontsize=8)
    figure.savefig(file, dpi=120)


def _of(rows: Rows, data: str, n_gpus: int, arm: str) -> Rows:
    return sorted(
        (row for row in rows if (row["data"], row["n_gpus"], row["arm"]) == (data, n_gpus, arm)),
        key=lambda row: row["seed"],
    )
