"""The same random batches of 16 models, solved by the certified solver in turn: each model on an engine of its own;
four models to an engine, whose slots they share; the same where a request takes more slots of an engine on its dearer
models; and with one or two limits beside, set below what the answer without them takes. The batches with two limits are
also solved as one full model, Pyomo through HiGHS, with the same rows. One thread, relative gap 1e-4.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.assignment import BatchProblem, Limit, Mip, assign, warm_up
from apportion.router.evaluation.plot import COLOURS
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import MARKERS, panels, save
from benchmarks.experiments.numbers import distinct, where
from benchmarks.experiments.report import table
from benchmarks.experiments.solving import GAP, LIMITS, Timed, batch, certified, pyomo_full, timed

TITLE = "Models that share engines, and further limits"
SIZES, SMOKE_SIZES = (256, 1024, 4096, 16384), (16, 64)
MODELS, TO_AN_ENGINE = 16, 4
BATCHES, REPEATS = 5, 3
MOST_FULL, FULL_LIMIT_S = 1024, 30.0
OWN, SHARED, BY_MODEL, ONE, TWO = "own engines", "shared", "loads by model", "one limit", "two limits"
FULL = "full Pyomo, two limits"
ARMS = (OWN, SHARED, BY_MODEL, ONE, TWO)
BOTH = "budget and slots"


def posed(n: int, limits: str, seed: int) -> dict[str, BatchProblem]:
    """One batch in every form."""
    own = batch(n, MODELS, limits, seed)
    slots = own.slots.reshape(-1, TO_AN_ENGINE).sum(axis=1)
    shared = replace(own, slots=slots, row_of_column=np.arange(MODELS) // TO_AN_ENGINE)
    rng = np.random.default_rng([seed, n])
    loads = 1 + np.arange(MODELS) % TO_AN_ENGINE + rng.integers(0, 2, (n, MODELS))
    free = assign(shared, Mip(GAP)).model
    use = rng.lognormal(0, 0.5, (n, MODELS))
    dear = _limit("tokens of the dear half", use * (np.arange(MODELS) >= MODELS // 2), free, 0.9)
    slow = _limit("seconds", use * np.linspace(0.25, 4.0, MODELS), free, 0.97)
    return {
        OWN: own,
        SHARED: shared,
        BY_MODEL: replace(shared, sequences=loads, slots=3 * slots),
        ONE: replace(shared, limits=(dear,)),
        TWO: replace(shared, limits=(dear, slow)),
    }


def _limit(name: str, use: Any, model: Any, share: float) -> Limit:
    return Limit(name, use, share * float(use[np.arange(len(model)), model].sum()))


def run(context: Context) -> dict[str, Any]:
    """Time every form of every batch, one after the other."""
    warm_up()
    rows: list[Record] = []
    for n in SMOKE_SIZES if context.smoke else SIZES:
        for limits in LIMITS:
            for seed in range(2 if context.smoke else BATCHES):
                rows += _batch(n, limits, seed)
    context.work_s.append(sum(row["wall_s"] for row in rows))
    settings = {"gap": GAP, "threads": 1, "full_time_limit_s": FULL_LIMIT_S}
    return {"settings": settings, "rows": rows, "plots": {"Time by size": "engines.png"}}


def _batch(n: int, limits: str, seed: int) -> list[Record]:
    forms = posed(n, limits, seed)
    tries = [{arm: timed(partial(certified, forms[arm])) for arm in ARMS} for _ in range(REPEATS)]
    found = {arm: min((one[arm] for one in tries), key=lambda once: once.cpu_s) for arm in ARMS}
    if n <= MOST_FULL:
        found[FULL] = timed(partial(pyomo_full, forms[TWO], FULL_LIMIT_S))
    return [_row(n, limits, seed, arm, once) for arm, once in found.items()]


def _row(n: int, limits: str, seed: int, arm: str, once: Timed) -> Record:
    return {
        "n_requests": n, "limits": limits, "seed": seed, "arm": arm, "wall_s": once.wall_s, "cpu_s": once.cpu_s,
        "gap": once.answer.gap, "objective": once.answer.objective, "finished": once.answer.finished,
    }  # fmt: skip


def section(result: dict[str, Any]) -> list[str]:
    """The table, and the reading."""
    rows = result["rows"]
    headings = ["requests x models", "budget and slots that bind", *(f"{arm}, ms" for arm in ARMS)]
    headings += ["largest gap", "full model / two limits"]
    cases = [
        where(rows, n_requests=n, limits=limits)
        for n in distinct(rows, "n_requests")
        for limits in distinct(rows, "limits")
    ]
    proved = all(row["finished"] for row in rows if row["arm"] != FULL)
    ratios = {arm: [_ratio(case, arm, OWN) for case in cases] for arm in ARMS[1:]}
    full = [ratio for case in cases if np.isfinite(ratio := _ratio(case, FULL, TWO))]
    return [
        *table(headings, [_line(case) for case in cases]),
        "",
        "CPU times, medians over batches, each the least of three tries; in brackets the median ratio to the time "
        "of own engines, batch by batch. Lower bounds (>) where a full model reached its time limit.",
        "",
        *(f"- {arm}: {min(r):.2f} to {max(r):.2f} times the time of own engines." for arm, r in ratios.items()),
        f"- Every solve proved its gap: {'yes' if proved else 'no'}.",
        f"- A full model with the same limits takes {min(full):.3g} to {max(full):.3g} times as long.",
    ]


def _line(case: list[Record]) -> list[str]:
    proved = [row["gap"] for row in case if row["arm"] != FULL]
    late = "" if all(row["finished"] for row in where(case, arm=FULL)) else "> "
    ratio = _ratio(case, FULL, TWO)
    times = [f"{_ms(case, OWN):.3g}", *(f"{_ms(case, arm):.3g} ({_ratio(case, arm, OWN):.2f})" for arm in ARMS[1:])]
    beside = f"{late}{ratio:.3g}" if np.isfinite(ratio) else "-"
    return [f"{case[0]['n_requests']:,} x {MODELS}", case[0]["limits"], *times, f"{max(proved):.0e}", beside]


def _ms(case: list[Record], arm: str) -> float:
    return float(np.median([1e3 * row["cpu_s"] for row in where(case, arm=arm)]))


def _ratio(case: list[Record], arm: str, beside: str) -> float:
    other = {row["seed"]: row["cpu_s"] for row in where(case, arm=beside)}
    ratios = [row["cpu_s"] / other[row["seed"]] for row in where(case, arm=arm)]
    return float(np.median(ratios)) if ratios else float("nan")


def draw(result: dict[str, Any], folder: Path) -> None:
    """Time against requests, both axes logarithmic, for limits of budget and slots."""
    figure, (axes,) = panels(1)
    rows = where(result["rows"], limits=BOTH)
    for number, arm in enumerate(distinct(rows, "arm")):
        sizes = distinct(where(rows, arm=arm), "n_requests")
        times = [_ms(where(rows, n_requests=n), arm) for n in sizes]
        axes.plot(sizes, times, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=arm)
    axes.set(xscale="log", yscale="log", xlabel="requests", ylabel="ms of CPU")
    axes.legend(fontsize=8)
    save(figure, folder / "engines.png")
