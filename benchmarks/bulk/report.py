"""A file as one job: what one plan for all of it is worth, how long it takes, and whether days keep deadlines.

*Worth.* The test requests of recorded tables as a file, in the order of the table, which is grouped by subject, and
shuffled. Chunks of 256, each with its share of the budget as a cap; the same with what a chunk really leaves carried
over; the whole file as one job; the same, its rest planned anew twenty times with the money that is really left. `At
equal spend` is the score less that of a whole job that really spends as much. Estimator: our head.

*Plans.* Drawn rows (models better the dearer, lengths lognormal), each plan in a process of its own; memory is what the
process took at most, arrays and libraries included. For files that lack money or time, the time to find what would do.

*Days.* Eight hours of simulated interactive load that rises and falls between a quarter and 55 % of the slots with
noise, and some twelve bursts of 5 to 15 minutes to as much as 120 %; three models of 64, 48 and 32 slots. A job gets
what the service would give it: slots beyond the reserve and beyond who waits, by the service's own rules, plan and
pace; answers are as long as expected only on average, and no engine runs. A job of a part of the tokens that
interactive requests leave free can be kept; one of more than all slots could generate cannot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apportion.router.evaluation.statistics import Summary
from benchmarks.bulk.days import run_day
from benchmarks.bulk.plan_time import plan_times
from benchmarks.bulk.whole import CARRIED, FRACTIONS, RESOLVED, WHOLE, measure_case
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import difference, distinct, over_seeds, points, shown, side, where
from benchmarks.experiments.report import table

TITLE = "Bulk: one plan for a whole file"
DAYS, ROWS = 20, 8_000
SHARES = (0.5, 0.7)


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets; then plans and days."""
    rows = context.measure(measure_case, ("head",), "bulk", code=("router/jobs/planning",))
    days, n_rows = (1, 400) if context.smoke else (DAYS, ROWS)
    simulated = [run_day(seed, n_rows, share) for share in (*SHARES, None) for seed in range(days)]
    names = distinct(rows, "dataset")
    plots = {f"Less than a whole job at equal spend, {name}": f"bulk-{name}.png" for name in names}
    return {"rows": rows, "plans": plan_times(context.smoke), "days": simulated, "plots": plots}


def section(result: dict[str, Any]) -> list[str]:
    """Tables and their reading."""
    lines = []
    for name in distinct(result["rows"], "dataset"):
        rows = where(result["rows"], dataset=name)
        lines += [f"### {name}", "", *_worth(rows), "", *_reading(rows), ""]
    return [*lines, "### Plans", "", *_plans(result["plans"]), "", "### Days", "", *_days(result["days"])]


def _worth(rows: list[Record]) -> list[str]:
    cells = []
    for order in distinct(rows, "order"):
        for policy in distinct(rows, "policy"):
            own = where(rows, order=order, policy=policy)
            behind = "" if policy == WHOLE else points(over_seeds(own, "less_whole"), 2)
            scores = [shown(over_seeds(own, "score", fraction=f)) for f in distinct(rows, "fraction")]
            cells.append([order, policy, *scores, behind, shown(over_seeds(own, "spend"), 1, scale=100) + " %"])
    budgets = [f"{fraction:.0%}" for fraction in distinct(rows, "fraction")]
    about = "Score of the best single model's, by budget (of its cost); spend of the budget, mean over budgets."
    return [about, "", *table(["file", "policy", *budgets, "at equal spend, points", "spend"], cells)]


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for order in distinct(rows, "order"):
        gain = over_seeds(where(rows, order=order, policy=CARRIED), "less_whole")
        said = f"- {order.capitalize()}: chunks with carry-over less a whole job at equal spend"
        said += f" {points(gain, 2)} points"
        lines.append(f"{said} (no difference shown)." if side(gain) == 0 else f"{said}.")
    again = difference(rows, "score", {"policy": RESOLVED}, {"policy": WHOLE})
    off = {
        p: over_seeds([r | {"off": abs(r["spend"] - 1)} for r in where(rows, policy=p)], "off")
        for p in (WHOLE, RESOLVED)
    }
    lines.append(
        f"- Planning anew changes the score by {points(again, 2)} points, and brings real spend from "
        f"{off[WHOLE].mean:.1%} off the budget to {off[RESOLVED].mean:.1%}."
    )
    return lines


def _plans(plans: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            f"{plan['rows']:,}", str(plan["models"]), plan["limits"],
            "plan" if plan["planned"] else f"{plan['status']} is too little", f"{plan['wall_s']:.1f}",
            "-" if plan["gap"] is None else f"{plan['gap']:.0e}", f"{plan['peak_mb']:,.0f}",
        ]
        for plan in plans
    ]  # fmt: skip
    return table(["rows", "models", "limits", "answer", "seconds", "gap", "memory, MB"], cells)


def _days(days: list[dict[str, Any]]) -> list[str]:
    cells = []
    for share in distinct(days, "share"):
        own = where(days, share=share)
        said = "more than all slots" if share is None else f"{share:.0%} of what interactive leaves"
        run = [day for day in own if not day["refused"]]
        kept = sum(day["kept"] for day in run)
        means = [sum(day[key] for day in run) / max(len(run), 1) for key in ("ended_share", "haste", "waiting")]
        told = [f"{mean:.1%}" for mean in means] if run else ["-"] * 3
        late = [day["rows_late"] for day in run if day["rows_late"]]
        told.append(", ".join(f"{rows} of {ROWS:,}" for rows in late) or "-")
        cells.append([said, f"{len(own) - len(run)} of {len(own)}", f"{kept} of {len(run)}" if run else "-", *told])
    headings = ["job", "refused at once", "deadline kept", "done after, of the window", "reserve given up"]
    headings += ["slots that interactive requests waited for bulk to leave", "late requests of the days that were late"]
    return table(headings, cells)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Points behind the whole job at equal spend, by budget, one panel an order."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        orders = distinct(rows, "order")
        figure, axes = panels(len(orders), columns=2, width=4.4)
        fractions = [fraction for fraction in FRACTIONS if where(rows, fraction=fraction)]
        for panel, order in zip(axes, orders, strict=True):
            for number, policy in enumerate(p for p in distinct(rows, "policy") if p != WHOLE):
                own = where(rows, order=order, policy=policy)
                gains = [over_seeds(own, "less_whole", fraction=fraction) for fraction in fractions]
                scaled = [Summary(100 * g.mean, 100 * g.half_width, g.n) for g in gains]
                line(panel, fractions, scaled, number, policy)
            panel.axhline(0, color="0.4", linewidth=0.8)
            panel.set(xlabel="budget, share of the best model's cost", ylabel="points to the whole job")
            panel.set_title(f"{name}: {order}", fontsize=9)
        axes[0].legend(fontsize=8)
        save(figure, folder / file)
