"""Pessimistic estimates against plain ones. Success: `robust_mip` plans with a lower quantile of every estimate's
bootstrap members instead of its mean; all quantiles are shown, and the one that does best on validation requests, with
and without the choice to stay plain. Cost: the budget is to hold with a promised probability although the lengths of
answers are uncertain; shown is how often batches of 64 really passed their cap, and what that safety costs in score.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.assignment import Mip, RobustMip
from apportion.router.evaluation import ARMS, Setting
from apportion.router.evaluation.arms import QUANTILES, quantile_areas, span, with_quantile
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.planners import GAP, capped
from apportion.router.evaluation.realised import Realised, curve_of
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import called, difference, distinct, listed, over_seeds, points, shown, side, where
from benchmarks.experiments.report import table

TITLE = "Robust: pessimism about success and about cost"
ESTIMATORS = ("knn-5", "knn-40", "trees", "head")
CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
FRACTIONS = (0.1, 0.3, 0.5, 0.7)
COST_BATCH = 64
PLAIN, CHOSEN, CAUTIOUS = "plain", "chosen", "chosen or plain"


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Areas of all quantiles, and overshoot at all confidences."""
    return [*_success(case, Setting(32 if smoke else 256)), *_cost(case, Setting(16 if smoke else COST_BATCH))]


def _success(case: Case, setting: Setting) -> list[Record]:
    held_out = replace(case, test=case.validation)
    validation = {PLAIN: curve_of(ARMS["mip"](held_out, setting)).area(*span(held_out))}
    validation |= {f"{q:g}": area for q, area in quantile_areas(case, setting).items()}
    found = {PLAIN: ARMS["mip"](case, setting)}
    found |= {f"{q:g}": with_quantile(q)(case, setting) for q in QUANTILES}
    best = max((f"{q:g}" for q in QUANTILES), key=lambda q: validation[q])
    records = [_curve(case, variant, points_, validation[variant]) for variant, points_ in found.items()]
    for variant, of in ((CHOSEN, best), (CAUTIOUS, max(validation, key=lambda q: validation[q]))):
        records.append({**_curve(case, variant, found[of], validation[of]), "of": of})
    return records


def _curve(case: Case, variant: str, found: list[Realised], validation: float) -> Record:
    curve = curve_of(found)
    scores = curve.at(np.array(FRACTIONS) * case.best_cost_usd) / case.best_score
    at = {f"at_{f:g}": float(score) for f, score in zip(FRACTIONS, scores, strict=True)}
    area = curve.area(*span(case))
    return {"kind": "success", "variant": variant, "area": area, "validation_area": validation, **at}


def _cost(case: Case, setting: Setting) -> list[Record]:
    strategies: dict[float, Mip | RobustMip] = {0.0: Mip(GAP)}
    strategies |= {c: RobustMip("cost", confidence=c, gap=GAP) for c in CONFIDENCES}
    records = []
    for fraction in FRACTIONS:
        budget = fraction * float(case.mean_paid_usd[case.best])
        for confidence, strategy in strategies.items():
            found = capped(strategy)(case, setting, budget)
            ratio = found.batch_cost_usd / found.batch_cap_usd
            records.append(
                {
                    "kind": "cost", "confidence": confidence, "fraction": fraction, "over": float((ratio > 1).mean()),
                    "worst": float(ratio.max()), "score": found.score / case.best_score, "spend": float(ratio.mean()),
                }
            )  # fmt: skip
    return records


def run(context: Context) -> dict[str, Any]:
    """Measure four estimators on all data sets."""
    rows = context.measure(measure_case, ESTIMATORS[::3] if context.smoke else ESTIMATORS, "robust")
    names = distinct(rows, "dataset")
    return {
        "success": where(rows, kind="success"),
        "cost": where(rows, kind="cost"),
        "plots": {f"Robust less plain, and overshoot, {n}": f"robust-{n}.png" for n in names},
    }


def section(result: dict[str, Any]) -> list[str]:
    """Both kinds of pessimism, and the reading."""
    lines = []
    for name in distinct(result["success"], "dataset"):
        success, cost = where(result["success"], dataset=name), where(result["cost"], dataset=name)
        lines += [f"### {name}", "", *_success_table(success), "", *_cost_table(cost), "", *_reading(success, cost), ""]
    return lines


def _gain(rows: list[Record], variant: str, field: str = "area", **wanted: Any) -> Summary:
    return difference(rows, field, {"variant": variant}, {"variant": PLAIN}, **wanted)


def _success_table(rows: list[Record]) -> list[str]:
    quantiles = [v for v in distinct(rows, "variant") if v not in (PLAIN, CHOSEN, CAUTIOUS)]
    headings = [
        "estimator",
        "area, plain",
        *(f"quantile {q}" for q in quantiles),
        CHOSEN,
        CAUTIOUS,
        "at 30 %",
        "chosen were",
    ]
    cells = []
    for estimator in distinct(rows, "estimator"):
        own = where(rows, estimator=estimator)
        gains = [shown(_gain(own, v), 4, signed=True) for v in (*quantiles, CHOSEN, CAUTIOUS)]
        plain, at = shown(over_seeds(own, "area", variant=PLAIN), 4), points(_gain(own, CHOSEN, "at_0.3"))
        chosen = " ".join(r["of"] for r in where(own, variant=CHOSEN))
        cells.append([f"`{estimator}`", plain, *gains, at, chosen])
    return ["Area of robust less plain, by quantile; at 30 % of the cost in points:", "", *table(headings, cells)]


def _cost_table(rows: list[Record]) -> list[str]:
    headings = [
        "promised",
        *(f"`{e}`: kept" for e in distinct(rows, "estimator")),
        "worst batch",
        "score less plain, points",
    ]
    cells = []
    for confidence in distinct(rows, "confidence"):
        own = where(rows, confidence=confidence)
        kept = [_percent(_kept(where(own, estimator=e))) for e in distinct(rows, "estimator")]
        head = [r for r in rows if r["estimator"] == "head"]
        loss = difference(head, "score", {"confidence": confidence}, {"confidence": 0.0})
        worst = f"{over_seeds(where(own, estimator='head'), 'worst').mean:.2f}x"
        cells.append([f"{confidence:.0%}" if confidence else "nothing (`mip`)", *kept, worst, points(loss, 2)])
    about = f"Share of batches of {COST_BATCH} whose real cost kept the cap, mean over budgets of "
    about += ", ".join(f"{f:.0%}" for f in FRACTIONS) + "; last columns for `head`:"
    return [about, "", *table(headings, cells)]


def _kept(rows: list[Record]) -> Summary:
    over = over_seeds(rows, "over")
    return Summary(1 - over.mean, over.half_width, over.n)


def _reading(success: list[Record], cost: list[Record]) -> list[str]:
    lines = []
    for estimator in distinct(success, "estimator"):
        own = where(success, estimator=estimator)
        gain, cautious = _gain(own, CHOSEN), _gain(own, CAUTIOUS)
        lines.append(
            f"- `{estimator}`: the chosen quantile is {called(gain)} than plain by area "
            f"({shown(gain, 4, signed=True)}); with plain among the choices {called(cautious)}."
            if side(gain)
            else f"- `{estimator}`: no difference shown between the chosen quantile and plain "
            f"({shown(gain, 4, signed=True)})."
        )
    helped = [e for e in distinct(success, "estimator") if side(_gain(where(success, estimator=e), CHOSEN)) > 0]
    if helped:
        lines.append(
            f"- For a user: pessimism about success pays with {listed(helped)}; choose the quantile on held-out data."
        )
    else:
        lines.append("- For a user: do not bother with pessimism about success here; no estimator is shown to gain.")
    head = where(cost, estimator="head")
    short = [c for c in CONFIDENCES if _kept(where(head, confidence=c)).mean < c - 0.02]
    said = "- Promised probabilities of keeping the cap, `head`: "
    if short:
        missed = ", ".join(f"{c:.0%} ({_kept(where(head, confidence=c)).mean:.1%} kept)" for c in short)
        said += f"missed by more than 2 points at {missed}; real costs stray more than the spread of single answers "
        said += "explains, so promise more than you need and watch what is settled."
    else:
        said += "held at every level (within 2 points)."
    return [*lines, said]


def draw(result: dict[str, Any], folder: Path) -> None:
    """Gain by quantile, and kept against promised, one line an estimator."""
    for name, file in zip(distinct(result["success"], "dataset"), result["plots"].values(), strict=True):
        success, cost = where(result["success"], dataset=name), where(result["cost"], dataset=name)
        figure, (left, right) = panels(2)
        for number, estimator in enumerate(distinct(success, "estimator")):
            own = where(success, estimator=estimator)
            line(left, QUANTILES, [_gain(own, f"{q:g}") for q in QUANTILES], number, estimator)
            kept = [_kept(where(cost, estimator=estimator, confidence=c)) for c in CONFIDENCES]
            line(right, CONFIDENCES, kept, number, estimator)
        left.axhline(0, color="0.4", linewidth=0.8)
        left.set(xlabel="quantile of the estimates", ylabel="area less that of plain", title=f"{name}: success")
        right.plot([0.5, 1], [0.5, 1], color="0.4", linewidth=0.8)
        right.set(xlabel="promised probability", ylabel="share of batches that kept their cap", title=f"{name}: cost")
        for axes in (left, right):
            axes.legend(fontsize=8)
        save(figure, folder / file)


def _percent(value: Summary) -> str:
    return shown(value, 1, scale=100) + " %"
