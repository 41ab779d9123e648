"""Random batches of every size under three kinds of limits, each solved in the same run by the certified solver from
nothing (cold) and from the prices of another batch of the same kind (warm), and as one full model: Pyomo through HiGHS,
and arrays through HiGHS. One thread, relative gap 1e-4. A full model has a time limit; where it stops there, its ratio
is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.assignment import Prices, warm_up
from apportion.router.evaluation.plot import COLOURS
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import MARKERS, panels, save
from benchmarks.experiments.numbers import distinct, where
from benchmarks.experiments.report import table
from benchmarks.experiments.solving import FULL, GAP, LIMITS, Answer, Timed, apart, batch, certified, timed

TITLE = "Solver: time, gap and memory"
SIZES = ((16, 3), (64, 4), (256, 16), (1024, 11), (4096, 16), (16384, 11), (65536, 16), (1_000_000, 16))
SMOKE_SIZES = ((16, 3), (64, 4))
LARGEST_FULL = 200_000
SMALL, MIDDLE = 20_000, 2_000_000
BOTH = "budget and slots"
# What is shown: on a shared machine wall time says more about the neighbours.
TIME = "cpu_s"


def run(context: Context) -> dict[str, Any]:
    """Time every size and every kind of limits."""
    warm_up()
    limit_s = 5.0 if context.smoke else 45.0
    cases = [(n, m, limits) for n, m in (SMOKE_SIZES if context.smoke else SIZES) for limits in LIMITS]
    rows: list[Record] = []
    with context.bars() as bars:
        task = bars.add_task("solver", total=len(cases))
        for n, m, limits in cases:
            rows += _case(n, m, limits, limit_s, 2 if context.smoke else _batches(n * m))
            bars.advance(task)
    context.work_s.append(sum(r["wall_s"] * r["repeats"] for r in rows))
    settings = {"gap": GAP, "threads": 1, "full_time_limit_s": limit_s}
    return {"settings": settings, "rows": rows, "plots": {"Time and memory by size": "solver.png"}}


def _batches(pairs: int) -> int:
    return 9 if pairs <= SMALL else 4 if pairs <= MIDDLE else 2


def _case(n: int, m: int, limits: str, limit_s: float, batches: int) -> list[Record]:
    rows: list[Record] = []
    prices: Prices | None = None
    small = n * m <= SMALL

    def add(seed: int, method: str, solve: Callable[[], Answer], *, forked: bool) -> Timed:
        tries = [apart(solve, 1.5 * limit_s)] if forked else [timed(solve) for _ in range(3 if small else 1)]
        once = sorted(tries, key=lambda t: t.wall_s)[len(tries) // 2]
        rows.append(_row(n, m, limits, seed, method, once, len(tries)))
        return once

    for seed in range(batches):
        problem = batch(n, m, limits, seed)
        cold = add(seed, "cold", partial(certified, problem), forked=False)
        if prices is not None:
            add(seed, "warm", partial(certified, problem, prices), forked=False)
        prices = cold.answer.prices
        if seed == 0 and not small:
            rows[0]["extra_mib"] = apart(partial(certified, problem)).extra_mib
        if n * m <= LARGEST_FULL and (small or seed == 0):
            for method, solve in FULL.items():
                add(seed, method, partial(solve, problem, limit_s), forked=not small)
    return rows


def _row(n: int, m: int, limits: str, seed: int, method: str, once: Timed, repeats: int) -> Record:
    return {
        "n_requests": n, "n_models": m, "limits": limits, "seed": seed, "method": method, "wall_s": once.wall_s,
        "cpu_s": once.cpu_s, "gap": once.answer.gap, "objective": once.answer.objective,
        "finished": once.answer.finished, "extra_mib": once.extra_mib, "repeats": repeats,
    }  # fmt: skip


def section(result: dict[str, Any]) -> list[str]:
    """The table, the targets, and the reading."""
    rows = result["rows"]
    methods = [m for m in distinct(rows, "method") if m not in ("cold", "warm")]
    headings = ["requests x models", "limits", "cold, ms", "warm, ms", "largest gap", "MiB"]
    for method in methods:
        headings += [f"{method}, s", "gap", "MiB", "/ cold"]
    lines = table(headings, [_line(case, methods) for case in _cases(rows)])
    cold = where(rows, method="cold")
    busy = float(np.median([r["wall_s"] / max(r["cpu_s"], 1e-9) for r in cold]))
    about = "Times are CPU times of the one thread, medians over batches (each the median of three solves up to 20,000 "
    about += "pairs), ratios batch by batch. MiB: peak of one solve in a process of its own, beyond the batch itself. "
    about += f"Wall times are in the JSON; they were {busy:.1f} times the CPU times (median over cold solves)"
    about += ": the machine was shared." if busy > 1.2 else "."
    return [*lines, "", about, "", *table(["target", "measured", "met"], _targets(rows)), "", *_reading(rows)]


def _cases(rows: list[Record]) -> list[list[Record]]:
    keys = dict.fromkeys((r["n_requests"], r["n_models"], r["limits"]) for r in rows)
    return [where(rows, n_requests=n, n_models=m, limits=limits) for n, m, limits in keys]


def _line(case: list[Record], methods: list[str]) -> list[str]:
    cold, warm = where(case, method="cold"), where(case, method="warm")
    cells = [f"{case[0]['n_requests']:,} x {case[0]['n_models']}", case[0]["limits"]]
    cells += [f"{1e3 * _median(rows, TIME):.3g}" for rows in (cold, warm)]
    cells += [f"{max(r['gap'] for r in cold):.0e}", _cell(_median(cold[:1], "extra_mib"), ".0f")]
    for method in methods:
        full = where(case, method=method)
        more = "" if all(r["finished"] for r in full) else "> "
        gap = max((r["gap"] if r["gap"] is not None else np.inf for r in full), default=np.nan)
        cells += [
            _cell(_median(full, TIME), ".3g", more),
            _cell(gap, ".0e"),
            _cell(_median(full, "extra_mib"), ".0f"),
        ]
        cells.append(_cell(float(np.median(_ratios(case, method))) if full else np.nan, ".3g", more))
    return cells


def _targets(rows: list[Record]) -> list[list[str]]:
    def at(n: int, m: int) -> list[Record]:
        return where(rows, n_requests=n, n_models=m)

    found = []
    for n, m, least in ((4096, 16, 50), (16384, 11, 200)):
        ratios = _by_limits(at(n, m), "full Pyomo")
        if ratios:
            found.append(_target(f"full model / cold at {n} x {m} at least {least}", min(ratios), min(ratios) >= least))
    every = _by_limits(rows, "full Pyomo")
    words = "never slower than the full model (median over batches, every size and limits)"
    found.append(_target(words, min(every), min(every) >= 1, "least ratio "))
    for n, m, most_s in ((256, 16, 0.015), (65536, 16, 1.5)):
        slowest = [_median(where(case, method="cold"), TIME) for case in _cases(at(n, m))]
        if slowest:
            text = f"{n} x {m} under {most_s * 1e3:.0f} ms at the median, cold, slowest limits"
            walls = max(_median(where(case, method="cold"), "wall_s") for case in _cases(at(n, m)))
            found.append(
                _target(text, max(slowest) * 1e3, max(slowest) < most_s, unit=f" ms (wall {walls * 1e3:.3g} ms)")
            )
    million = where(at(1_000_000, 16), method="cold")
    if million:
        proved = all(r["finished"] for r in million)
        found.append(_target("1,000,000 x 16 solved", max(r[TIME] for r in million), proved, "at most ", " s"))
    slower = [case[0] for case in _cases(rows) if _median(where(case, method="warm"), TIME) >= _cold(case)]
    where_not = ", ".join(f"{r['n_requests']} x {r['n_models']} {r['limits']}" for r in slower)
    found.append(
        ["warm faster than cold at every size", f"slower at {where_not}" if slower else "faster", _yes(not slower)]
    )
    return found


def _reading(rows: list[Record]) -> list[str]:
    cold = where(rows, method="cold", limits=BOTH)
    pairs = np.array([r["n_requests"] * r["n_models"] for r in cold if r["extra_mib"] is not None], np.float64)
    memory = np.array([r["extra_mib"] for r in cold if r["extra_mib"] is not None], np.float64)
    kept = np.isfinite(memory) & (memory > 0) & (pairs > 1e5)
    lines = []
    proved = all(r["finished"] for r in where(rows, method="cold"))
    lines.append(f"- Every cold solve proved its gap: {_yes(proved)}.")
    if kept.sum() > 1:
        slope = float(np.polyfit(np.log(pairs[kept]), np.log(memory[kept]), 1)[0])
        growth = "linear or less" if slope <= 1.1 else "more than linear"
        lines.append(f"- Memory beyond the batch grows with the pairs to the power {slope:.2f}: {growth}.")
    full = [r for r in rows if r["method"] not in ("cold", "warm")]
    unfinished = sum(not r["finished"] for r in full)
    lines.append(f"- Full models that reached their time limit: {unfinished} of {len(full)}.")
    alike = min(_by_limits([r for r in rows if r["n_requests"] <= 64], "full Pyomo"))
    lines.append(
        f"- For a user: batches of up to 64 requests are small for any solver (least ratio {alike:.2g}); from hundreds "
        "of requests on, a full model is no choice within a request's latency."
        if alike < 50
        else f"- For a user: even the smallest batches gain (least ratio {alike:.2g})."
    )
    return lines


def draw(result: dict[str, Any], folder: Path) -> None:
    """Time and memory against pairs, both axes logarithmic, for limits of budget and slots."""
    figure, (left, right) = panels(2)
    for number, method in enumerate(distinct(result["rows"], "method")):
        for axes, field in ((left, TIME), (right, "extra_mib")):
            cases = _cases(where(result["rows"], method=method, limits=BOTH))
            pairs = [case[0]["n_requests"] * case[0]["n_models"] for case in cases]
            values = [_median(case, field) for case in cases]
            colour, marker = COLOURS[number], MARKERS[number]
            if np.isfinite(values).any():
                axes.plot(pairs, values, color=colour, marker=marker, markersize=4, label=method)
            late = [(p, v) for p, v, c in zip(pairs, values, cases, strict=True) if not all(r["finished"] for r in c)]
            if late and field == TIME:
                axes.scatter(*zip(*late, strict=True), s=90, facecolors="none", edgecolors=colour, label="at its limit")
    for axes, label in ((left, "seconds of CPU"), (right, "MiB beyond the batch")):
        axes.set(xscale="log", yscale="log", xlabel="requests x models", ylabel=label)
        if axes.lines:
            axes.legend(fontsize=8)
    save(figure, folder / "solver.png")


def _ratios(case: list[Record], method: str) -> list[float]:
    cold = {r["seed"]: r[TIME] for r in where(case, method="cold")}
    return [r[TIME] / cold[r["seed"]] for r in where(case, method=method)]


def _by_limits(rows: list[Record], method: str) -> list[float]:
    """The median ratio of every size and limits that the method was timed on."""
    return [float(np.median(ratios)) for case in _cases(rows) if (ratios := _ratios(case, method))]


def _median(rows: list[Record], field: str) -> float:
    values = [r[field] for r in rows if r[field] is not None and np.isfinite(r[field])]
    return float(np.median(values)) if values else float("nan")


def _cold(case: list[Record]) -> float:
    return _median([r for r in where(case, method="cold") if r["seed"] > 0], TIME)


def _target(words: str, value: float, met: bool, before: str = "", unit: str = "") -> list[str]:
    return [words, f"{before}{value:.3g}{unit}", _yes(met)]


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def _cell(value: float, spec: str, prefix: str = "") -> str:
    return "-" if np.isnan(value) else f"{prefix}{value:{spec}}"
