"""One daily budget over a stream of batches of 8 to 64 requests. Policies say what the next batch may spend, and `mip`
plans it: a fixed cap per request, an even course whose unspent money carries over, one shadow price learned on the way
(solved anew for every batch, or by descent), and yesterday's price (right for the validation requests, never moved).
Beside them the clairvoyant, who plans the whole day as one batch by the same estimates; read at the policy's own real
spend, so that thrift is no fault and overspending no merit. Streams: random order; the costly requests late; early. The
real cost of a batch is settled before the next. The day has as many requests as the test split: some 20 batches of the
smaller set and 67 of the larger one here, so what is learned on the way has little time. Estimator: our head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.arrays import IntArray
from apportion.router.assignment import Mip, assign
from apportion.router.budget.pacing import Pacer, WindowState
from apportion.router.evaluation import Setting
from apportion.router.evaluation.arms import by_budget
from apportion.router.evaluation.batches import batch_problem
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.curve import Curve
from apportion.router.evaluation.planners import GAP, PLANNERS, whole_price
from apportion.router.evaluation.realised import chosen, curve_of
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import difference, distinct, over_seeds, points, shown, side, where
from benchmarks.experiments.pacers import pacers
from benchmarks.experiments.report import by_dataset, table

TITLE = "Pacing: one daily budget over a stream"
STREAMS = ("random", "costly late", "costly early")
FRACTIONS = (0.1, 0.2, 0.3, 0.5)
SIZES = (8, 65)
CLAIRVOYANT = "clairvoyant"


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """All policies on all streams at every budget."""
    records = []
    whole_day = curve_of(by_budget(PLANNERS["mip"])(case, Setting(len(case.test))))
    for stream in STREAMS:
        batches = stream_of(case, stream)
        for fraction in FRACTIONS:
            each = fraction * float(case.mean_paid_usd[case.best])
            budget = each * len(case.test)
            makers = pacers(each, whole_price(case.validation, each))
            found = {name: follow(case, batches, budget, make()) for name, make in makers.items()}
            found[CLAIRVOYANT] = _clairvoyant(case, budget)
            for policy, model in found.items():
                named = {"stream": stream, "fraction": fraction, "policy": policy}
                records.append(named | _outcome(case, model, budget, whole_day))
    return records


def stream_of(case: Case, stream: str) -> list[IntArray]:
    """Row numbers of the test requests, batch by batch, sizes drawn evenly from SIZES.

    Costly: by the expected cost of the likeliest model, with as much noise as spread, so that the day drifts.
    """
    rng = np.random.default_rng([case.seed, STREAMS.index(stream)])
    n = len(case.test)
    likeliest = case.test.estimates.cost_usd[np.arange(n), case.test.estimates.success.argmax(axis=1)]
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
        seen += len(rows)
        # Time is counted in requests, and a batch is planned when its last one has come.
        window = WindowState(budget_usd, spent, 0.0, float(n), float(seen))
        allowance = pacer.allowance_usd(test.estimates.success[rows], test.estimates.cost_usd[rows], window)
        model[rows] = chosen(batch_problem(test, rows, slots, allowance), Mip(GAP), number)
        spent += float(test.paid_usd[rows, model[rows]].sum())
    return model


def _clairvoyant(case: Case, budget_usd: float) -> IntArray:
    n = len(case.test)
    whole = batch_problem(case.test, np.arange(n), np.full(len(case.models), n, np.int64), budget_usd)
    return assign(whole, Mip(1e-4)).model


def _outcome(case: Case, model: IntArray, budget_usd: float, whole_day: Curve) -> Record:
    rows = np.arange(len(model))
    paid, score = case.test.paid_usd[rows, model], float(case.test.score[rows, model].mean())
    at_spend = float(np.interp(paid.mean(), whole_day.cost_usd, whole_day.score))
    return {
        "score": score / case.best_score,
        "less_clairvoyant": (score - at_spend) / case.best_score,
        "spend": float(paid.sum()) / budget_usd,
    }


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets."""
    rows = context.measure(measure_case, ("head",), "pacing")
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"Behind the clairvoyant, {n}": f"pacing-{n}.png" for n in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Score and spend of every policy beside the clairvoyant's, and the reading."""
    return by_dataset(result, _table, _reading)


def _policies(rows: list[Record]) -> list[str]:
    return [policy for policy in distinct(rows, "policy") if policy != CLAIRVOYANT]


def _behind(rows: list[Record], policy: str, **wanted: Any) -> Summary:
    """Score less the clairvoyant's at the same spend."""
    return over_seeds(rows, "less_clairvoyant", policy=policy, **wanted)


def _table(rows: list[Record]) -> list[str]:
    headings = ["stream", "policy", "score", "less the clairvoyant at equal spend, points", "spend", "least", "most"]
    cells = []
    for stream in distinct(rows, "stream"):
        for policy in distinct(rows, "policy"):
            own = where(rows, stream=stream, policy=policy)
            spend = shown(over_seeds(own, "spend"), 1, scale=100) + " %"
            ends = [f"{pick(r['spend'] for r in own):.1%}" for pick in (min, max)]
            behind = "" if policy == CLAIRVOYANT else points(_behind(rows, policy, stream=stream), 2)
            cells.append([stream, f"`{policy}`", shown(over_seeds(own, "score")), behind, spend, *ends])
    about = "Means over budgets of " + ", ".join(f"{f:.0%}" for f in FRACTIONS)
    about += " of the best single model's cost; spend as a share of the budget, with the least and the most of any day."
    return [about, "", *table(headings, cells)]


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for stream in distinct(rows, "stream"):
        own = where(rows, stream=stream)
        best = max(_policies(own), key=lambda policy: over_seeds(own, "score", policy=policy).mean)
        gain = difference(own, "score", {"policy": "shadow_price"}, {"policy": "fixed_cap"})
        said = f"- {stream.capitalize()}: highest score by `{best}`; "
        said += f"a learned price less a fixed cap {points(gain, 2)} points"
        lines.append(said + (" (no difference shown)." if side(gain) == 0 else "."))
    most = {policy: max(r["spend"] for r in where(rows, policy=policy)) for policy in distinct(rows, "policy")}
    over = [f"`{policy}` ({spend:.1%})" for policy, spend in most.items() if spend > 1.005]
    said = "- Daily budget passed by more than half a percent on some day: " + (", ".join(over) or "by none") + "."
    means = {policy: over_seeds(where(rows, policy=policy), "spend").mean for policy in _policies(rows)}
    idle = [f"`{policy}` ({spend:.0%} spent)" for policy, spend in means.items() if spend < 0.97]
    lines.append(said + (" Money left over by " + ", ".join(idle) + "." if idle else ""))
    loss = {s: _behind(rows, "fixed_cap", stream=s) for s in distinct(rows, "stream")}
    lost = [s for s, behind in loss.items() if side(behind) < 0 and behind.mean < -0.005]
    if lost:
        losses = ", ".join(f"{points(loss[s])} points ({s})" for s in lost)
        lines.append(f"- At equal spend a fixed cap loses {losses}: let batches share the day.")
    else:
        lines.append(
            "- A fixed cap loses no half point at equal spend on any stream: pace for the bill, not for quality."
        )
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
