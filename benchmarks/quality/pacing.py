"""One daily budget over a stream of batches of 8 to 64 requests. Policies say what the next batch may spend, and `mip`
plans it: a fixed cap per request, an even course whose unspent money carries over, one shadow price learned on the way,
and yesterday's price (right for the validation requests, never moved). Beside them the clairvoyant, who plans the whole
day as one batch by the same estimates. Streams: random order; the costly requests late; the costly requests early. The
real cost of a batch is settled before the next. Estimator: our head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.cases import Dataset
from benchmarks.quality.context import Context, Record
from benchmarks.quality.drawing import line, panels, save
from benchmarks.quality.numbers import difference, distinct, over_seeds, points, shown, side, where
from benchmarks.quality.pacers import Pacer, Window, batch_price, pacers
from benchmarks.quality.report import table
from router.assignment import Mip, assign
from router.assignment.problem import FloatArray, IntArray
from router.evaluation.batches import batch_problem
from router.evaluation.case import Case
from router.evaluation.planners import GAP
from router.evaluation.realised import chosen
from router.evaluation.statistics import Summary

TITLE = "Pacing: one daily budget over a stream"
STREAMS = ("random", "costly late", "costly early")
FRACTIONS = (0.1, 0.2, 0.3, 0.5)
SIZES = (8, 65)
CLAIRVOYANT = "clairvoyant"


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """All policies on all streams at every budget."""
    records = []
    for stream in STREAMS:
        batches = stream_of(case, stream)
        for fraction in FRACTIONS:
            budget = fraction * float(case.mean_paid_usd[case.best]) * len(case.test)
            yesterday = _price_of(case.validation.success, case.validation.cost_usd, budget / len(case.test))
            makers = pacers(budget / len(case.test), yesterday)
            found = {name: follow(case, batches, budget, make()) for name, make in makers.items()}
            found[CLAIRVOYANT] = _clairvoyant(case, budget)
            for policy, model in found.items():
                records.append(
                    {"stream": stream, "fraction": fraction, "policy": policy, **_outcome(case, model, budget)}
                )
    return records


def stream_of(case: Case, stream: str) -> list[IntArray]:
    """Row numbers of the test requests, batch by batch, sizes drawn evenly from SIZES.

    Costly: by the expected cost of the likeliest model, with as much noise as spread, so that the day drifts.
    """
    rng = np.random.default_rng([case.seed, STREAMS.index(stream)])
    n = len(case.test)
    likeliest = case.test.cost_usd[np.arange(n), case.test.success.argmax(axis=1)]
    drift = likeliest.argsort().argsort() + rng.normal(0, 0.3 * n, n)
    order = {"random": rng.permutation(n), "costly late": drift.argsort(), "costly early": (-drift).argsort()}[stream]
    ends = np.cumsum(rng.integers(*SIZES, size=n))
    return [part for part in np.split(order, ends[ends < n]) if len(part)]


def follow(case: Case, batches: list[IntArray], budget_usd: float, pacer: Pacer) -> IntArray:
    """The models (n_test,) that a pacer's allowances lead to, each batch settled before the next."""
    test, n = case.test, len(case.test)
    model, spent, seen = np.zeros(n, np.int64), 0.0, 0
    slots = np.full(len(case.models), n, np.int64)
    for number, rows in enumerate(batches):
        window = Window(budget_usd, spent, 0.0, float(n), float(seen))
        allowance = pacer.allowance_usd(test.success[rows], test.cost_usd[rows], window)
        allowance = min(allowance, max(budget_usd - spent, 0.0))
        model[rows] = chosen(batch_problem(test, rows, slots, allowance), Mip(GAP), number)
        spent += float(test.paid_usd[rows, model[rows]].sum())
        seen += len(rows)
    return model


def _clairvoyant(case: Case, budget_usd: float) -> IntArray:
    n = len(case.test)
    whole = batch_problem(case.test, np.arange(n), np.full(len(case.models), n, np.int64), budget_usd)
    return assign(whole, Mip(1e-4)).model


def _price_of(success: FloatArray, cost_usd: FloatArray, usd_per_request: float) -> float:
    return batch_price(success, cost_usd, usd_per_request * len(success))


def _outcome(case: Case, model: IntArray, budget_usd: float) -> Record:
    rows = np.arange(len(model))
    spend = float(case.test.paid_usd[rows, model].sum())
    score = float(case.test.score[rows, model].mean())
    expected = float(case.test.success[rows, model].mean())
    return {"score": score / case.best_score, "expected": expected / case.best_score, "spend": spend / budget_usd}


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets."""
    rows = context.measure(measure_case, ("head",), "pacing")
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"Behind the clairvoyant, {n}": f"pacing-{n}.png" for n in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Score and spend of every policy beside the clairvoyant's, and the reading."""
    lines = []
    for name in distinct(result["rows"], "dataset"):
        rows = where(result["rows"], dataset=name)
        lines += [f"### {name}", "", *_table(rows), "", *_reading(rows), ""]
    return lines


def _policies(rows: list[Record]) -> list[str]:
    return [policy for policy in distinct(rows, "policy") if policy != CLAIRVOYANT]


def _behind(rows: list[Record], policy: str, **wanted: Any) -> Summary:
    return difference(rows, "score", {"policy": policy}, {"policy": CLAIRVOYANT}, **wanted)


def _table(rows: list[Record]) -> list[str]:
    headings = ["stream", "policy", "score less the clairvoyant's, points", "expected score", "spend", "highest spend"]
    cells = []
    for stream in distinct(rows, "stream"):
        for policy in distinct(rows, "policy"):
            own = where(rows, stream=stream, policy=policy)
            expected = difference(rows, "expected", {"policy": policy}, {"policy": CLAIRVOYANT}, stream=stream)
            spend = shown(over_seeds(own, "spend"), 1, scale=100) + " %"
            real = points(_behind(rows, policy, stream=stream), 2)
            most = f"{max(r['spend'] for r in own):.1%}"
            both = ["", ""] if policy == CLAIRVOYANT else [real, points(expected, 2)]
            cells.append([stream, f"`{policy}`", *both, spend, most])
    about = "Means over budgets of " + ", ".join(f"{f:.0%}" for f in FRACTIONS)
    about += " of the best single model's cost; `expected`: by the estimates that all plan with; spend: of the budget."
    return [about, "", *table(headings, cells)]


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for stream in distinct(rows, "stream"):
        own = where(rows, stream=stream)
        best = max(_policies(own), key=lambda policy: over_seeds(own, "score", policy=policy).mean)
        left = _behind(own, best)
        gain = difference(own, "score", {"policy": "shadow_price"}, {"policy": "fixed_cap"})
        said = f"- {stream.capitalize()}: highest score by `{best}` ({points(left, 2)} points to the clairvoyant); "
        said += f"a learned price less a fixed cap {points(gain, 2)} points"
        lines.append(said + (" (no difference shown)." if side(gain) == 0 else "."))
    most = {policy: max(r["spend"] for r in where(rows, policy=policy)) for policy in _policies(rows)}
    over = [f"`{policy}` ({spend:.1%})" for policy, spend in most.items() if spend > 1.005]
    said = "- Daily budget passed by more than half a percent: " + (", ".join(over) or "by none") + "."
    least = {policy: over_seeds(where(rows, policy=policy), "spend").mean for policy in _policies(rows)}
    idle = [f"`{policy}` ({spend:.0%} spent)" for policy, spend in least.items() if spend < 0.97]
    lines.append(said + (" Money left over by " + ", ".join(idle) + "." if idle else ""))
    worst = max(abs(_behind(rows, "fixed_cap", stream=s).mean) for s in distinct(rows, "stream"))
    if worst < 0.005:
        lines.append(
            "- A fixed cap loses less than half a point on every stream here: pacing is about the bill, not quality."
        )
    else:
        lines.append(f"- A fixed cap loses up to {100 * worst:.1f} points: let batches share the day's money.")
    return lines


def draw(result: dict[str, Any], folder: Path) -> None:
    """Points behind the clairvoyant by budget, one panel a stream."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        figure, axes = panels(len(STREAMS), columns=3, width=4.4)
        for panel, stream in zip(axes, distinct(rows, "stream"), strict=True):
            for number, policy in enumerate(_policies(rows)):
                gains = [_behind(rows, policy, stream=stream, fraction=f) for f in FRACTIONS]
                line(panel, FRACTIONS, [Summary(100 * g.mean, 100 * g.half_width, g.n) for g in gains], number, policy)
            panel.axhline(0, color="0.4", linewidth=0.8)
            panel.set(xlabel="budget, share of the best model's cost", ylabel="points to the clairvoyant")
            panel.set_title(f"{name}: {stream}", fontsize=9)
        axes[0].legend(fontsize=8)
        save(figure, folder / file)
