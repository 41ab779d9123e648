"""Slots that bind. Every model has the same number of slots in a batch of 256: no limit (loose), three times an even
share (moderate) or 1.2 times (tight). Without pressure of cost there is no budget; with it the budget lies 20, 40 and
60 % of the way from the cheapest to the best answer that the slots allow. `mip` against `greedy`, `price` (prices
carried from batch to batch), a price per batch and `ndch_p` (both repaired to fit the slots), and requests that come
one by one and take the best model still free (`first_come`), which keeps no cap. Differences under a budget are read
at the spend of `mip`, and left open where the other cannot spend as little. Estimator: our head.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.assignment import Mip
from apportion.router.evaluation import Setting
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.planners import PLANNERS, capped
from apportion.router.evaluation.realised import Realised, curve_of
from apportion.router.evaluation.statistics import Summary
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import difference, distinct, listed, over_seeds, points, shown, side, where
from benchmarks.experiments.report import by_dataset, table

TITLE = "Capacity: slots that bind"
SLOTS = {"loose": math.inf, "moderate": 3.0, "tight": 1.2}
PRESSURE = (0.2, 0.4, 0.6)
ARMS = ("mip", "greedy", "price", "per_query_batch", "ndch_p", "first_come", "oracle")
NONE, COST = "no budget", "budget"
PRESSURES = {NONE: "no budget", COST: "all budgets"}
WORTH_OVER = {"first_come": "first come, first served", "price": "carried prices with repair"}
# Budgets beside those of the pressure, so that every arm has a curve to be read at the spend of `mip`.
AROUND = (0.02, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0)


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """All arms at every number of slots, without a budget and with three."""
    records = []
    for slots, shares in SLOTS.items():
        setting = Setting(32 if smoke else 256, slots_share=shares / len(case.models))
        free = {arm: PLANNERS[arm](case, setting, math.inf) for arm in ARMS}
        for arm, found in free.items():
            score, spend = found.score / case.best_score, found.cost_usd / case.best_cost_usd
            records.append({"slots": slots, "pressure": NONE, "share": None, "arm": arm, "score": score})
            records[-1] |= {"spend": spend, "equal": score, "planned_over": None}
        records += [{"slots": slots, "pressure": COST, **r} for r in _under_budgets(case, setting, free)]
    return records


def _under_budgets(case: Case, setting: Setting, free: dict[str, Realised]) -> list[Record]:
    low = _planned(_cheapest(case, setting)) / len(case.test)
    high = _planned(free["mip"]) / len(case.test)
    # Nobody is read at the oracle's spend, and ties of known outcomes take long to prove where budgets are tightest.
    shares = {arm: PRESSURE if arm == "oracle" else (*PRESSURE, *AROUND) for arm in ARMS}
    found = {arm: {s: PLANNERS[arm](case, setting, low + s * (high - low)) for s in shares[arm]} for arm in ARMS}
    curves = {arm: curve_of([*found[arm].values(), free[arm]]) for arm in ARMS}
    records = []
    for share in PRESSURE:
        spend = found["mip"][share].cost_usd
        for arm in ARMS:
            own = found[arm][share]
            equal = own.score if arm == "mip" else float(curves[arm].at(np.array(spend)))
            records.append(
                {
                    "arm": arm, "share": share, "score": own.score / case.best_score,
                    "spend": own.cost_usd / case.best_cost_usd,
                    "equal": equal / case.best_score,
                    "planned_over": float((own.batch_planned_usd > own.batch_cap_usd * (1 + 1e-6)).mean()),
                }
            )  # fmt: skip
    return records


def _cheapest(case: Case, setting: Setting) -> Realised:
    """The cheapest answer that the slots allow: no model is likelier than another."""
    own = case.test.estimates
    alike = replace(case.test, estimates=replace(own, success=-(own.cost_usd / own.cost_usd.max()) + 1))
    return capped(Mip(1e-7))(replace(case, test=alike), setting, math.inf)


def _planned(found: Realised) -> float:
    return float(found.batch_planned_usd.sum())


def run(context: Context) -> dict[str, Any]:
    """Measure with our head on all data sets."""
    rows = context.measure(measure_case, ("head",), "capacity")
    names = distinct(rows, "dataset")
    return {"rows": rows, "plots": {f"`mip` less the others, {n}": f"capacity-{n}.png" for n in names}}


def section(result: dict[str, Any]) -> list[str]:
    """Differences at equal spend, what every arm spent and planned above its cap, and the reading."""
    return by_dataset(result, _differences, _spends, _reading)


def _gain(rows: list[Record], arm: str, **wanted: Any) -> Summary:
    return difference(rows, "equal", {"arm": "mip"}, {"arm": arm}, **wanted)


def _others(rows: list[Record]) -> list[str]:
    return [arm for arm in distinct(rows, "arm") if arm not in ("mip", "oracle")]


def _settings(rows: list[Record]) -> list[tuple[str, list[Record]]]:
    """The records of each number of slots and budget, with its name."""
    keys = dict.fromkeys((r["slots"], r["share"]) for r in rows)
    return [
        (f"{slots}, {NONE if share is None else f'{share:.0%}'}", where(rows, slots=slots, share=share))
        for slots, share in keys
    ]


def _differences(rows: list[Record]) -> list[str]:
    others = _others(rows)
    cells = []
    for name, own in _settings(rows):
        score, oracle = (shown(over_seeds(own, "score", arm=arm)) for arm in ("mip", "oracle"))
        cells.append([name, score, *(points(_gain(own, arm), 2) for arm in others), oracle])
    about = "Score of `mip` as a share of the best single model's, and points by which it leads at equal spend "
    about += "(without a budget: as they come; a dash: the other arm cannot spend as little):"
    return [about, "", *table(["slots, budget", "`mip`", *(f"less `{arm}`" for arm in others), "oracle"], cells)]


def _spends(rows: list[Record]) -> list[str]:
    cells = []
    for name, own in _settings(rows):
        spends = []
        for arm in (arms := ["mip", *_others(rows)]):
            spend, over = over_seeds(own, "spend", arm=arm).mean, over_seeds(own, "planned_over", arm=arm).mean
            spends.append(f"{spend:.1%}" + (f", {over:.0%}" if over > 0 else ""))
        cells.append([name, *spends])
    about = "Spend of every arm at that budget as a share of the best single model's; after it, where it is not none, "
    about += "the share of batches that the arm planned above their cap:"
    return [about, "", *table(["slots, budget", *(f"`{arm}`" for arm in arms)], cells)]


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for slots in distinct(rows, "slots"):
        for pressure, words in PRESSURES.items():
            gains = {arm: _gain(rows, arm, slots=slots, pressure=pressure) for arm in _others(rows)}
            better, alike, worse = ([a for a, gain in gains.items() if _read(gain) == s] for s in (1, 0, -1))
            unread = [arm for arm, gain in gains.items() if _read(gain) is None]
            said = f"- {slots.capitalize()} slots, {words}: `mip` better than {listed(better)}"
            said += f"; no difference shown to {listed(alike)}" if alike else ""
            said += f"; not compared with {listed(unread)}, which cannot always spend as little" if unread else ""
            lines.append(said + (f"; worse than {listed(worse)}." if worse else "."))
    for pressure, words in PRESSURES.items():
        gains = {over: _gain(rows, arm, slots="tight", pressure=pressure) for arm, over in WORTH_OVER.items()}
        worth = [f"{_worth(gain)} over {over}" for over, gain in gains.items() if _read(gain) is not None]
        if worth:
            lines.append(f"- When slots are tight, {words}, planning the batch is worth {', and '.join(worth)}.")
    return lines


def _read(gain: Summary) -> int | None:
    """The side of a difference, None where it is not to be had."""
    return side(gain) if math.isfinite(gain.mean) else None


def _worth(gain: Summary) -> str:
    return f"{points(gain)} points" + (" (no difference shown)" if side(gain) == 0 else "")


def draw(result: dict[str, Any], folder: Path) -> None:
    """Points that `mip` leads by at equal spend, by how tight slots are."""
    for name, file in zip(distinct(result["rows"], "dataset"), result["plots"].values(), strict=True):
        rows = where(result["rows"], dataset=name)
        figure, axes = panels(2)
        slots = distinct(rows, "slots")
        for panel, pressure in zip(axes, (NONE, COST), strict=True):
            for number, arm in enumerate(_others(rows)):
                gains = [_gain(rows, arm, slots=s, pressure=pressure) for s in slots]
                line(panel, slots, [Summary(100 * g.mean, 100 * g.half_width, g.n) for g in gains], number, arm)
            panel.axhline(0, color="0.4", linewidth=0.8)
            panel.set(xlabel="slots", ylabel="points that mip leads", title=f"{name}: {pressure}")
            panel.legend(fontsize=8)
        save(figure, folder / file)
