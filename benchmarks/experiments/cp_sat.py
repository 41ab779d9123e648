"""OR-Tools' CP-SAT beside the full HiGHS model and the certified solver, in one run on the batches of `solver`, as long
as a full model still makes sense. OR-Tools and vLLM need different versions of protobuf, so CP-SAT runs in an
environment of its own. One thread, relative gap 1e-4, the same time limit; times are CPU times from arrays to answer.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.assignment import BatchProblem, warm_up
from apportion.router.evaluation.plot import COLOURS
from benchmarks.environment import environment
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import MARKERS, panels, save
from benchmarks.experiments.numbers import distinct, where
from benchmarks.experiments.report import table
from benchmarks.experiments.solving import GAP, LIMITS, Answer, Timed, batch, certified, highs_full, timed

TITLE = "CP-SAT beside the full model"
SIZES = ((16, 3), (64, 4), (256, 16), (1024, 11))
SMOKE_SIZES = ((16, 3), (64, 4))
BATCHES = 3
TIME_LIMIT_S = 30.0
REQUIREMENT = "ortools==9.15.6755"
FOLDER = Path("out/ortools-9.15.6755")
RUNNER = Path(__file__).with_name("cp_sat_runner.py")
FULL, CP_SAT, CERTIFIED = "full HiGHS", "CP-SAT", "certified, cold"


def cp_sat(python: Path, problem: BatchProblem, time_limit_s: float) -> Timed:
    """The batch through CP-SAT in a process of that Python; raises subprocess.CalledProcessError when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batch.npz"
        given: dict[str, Any] = {"success": problem.success, "cost_usd": problem.cost_usd, "slots": problem.slots}
        np.savez(file, **given, budget_usd=problem.budget_usd, gap=GAP, time_limit_s=time_limit_s)
        # Isolated, since a module beside the script has the name of one of Python's own.
        command = [str(python), "-I", str(RUNNER), str(file)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    if found["model"] is None:
        return Timed(Answer(-np.inf, np.inf, finished=False), found["wall_s"], found["cpu_s"])
    objective = float(problem.success[np.arange(len(problem.success)), found["model"]].sum())
    return Timed(Answer(objective, found["gap"], found["finished"]), found["wall_s"], found["cpu_s"])


def run(context: Context) -> dict[str, Any]:
    """Time all sizes and limits; the smoke size installs nothing, and uses OR-Tools where its environment is there."""
    settings: dict[str, Any] = {"gap": GAP, "threads": 1, "time_limit_s": TIME_LIMIT_S, "requirement": REQUIREMENT}
    python: Path | None = None
    if context.smoke and not (FOLDER / "ready").exists():
        settings["skipped"] = "the smoke size installs nothing"
    else:
        try:
            python = environment(FOLDER, REQUIREMENT) / "python"
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            settings["skipped"] = str(error)[:400]
    warm_up()
    cases = [(n, m, limits) for n, m in (SMOKE_SIZES if context.smoke else SIZES) for limits in LIMITS]
    rows: list[Record] = []
    with context.bars() as bars:
        task = bars.add_task("cp-sat", total=len(cases))
        for n, m, limits in cases:
            for seed in range(BATCHES):
                problem = batch(n, m, limits, seed)
                found = {
                    CERTIFIED: timed(partial(certified, problem)),
                    FULL: timed(partial(highs_full, problem, TIME_LIMIT_S)),
                }
                if python is not None:
                    found[CP_SAT] = cp_sat(python, problem, TIME_LIMIT_S)
                rows += [_row(n, m, limits, seed, method, once) for method, once in found.items()]
            bars.advance(task)
    context.work_s.append(sum(row["wall_s"] for row in rows))
    return {"settings": settings, "rows": rows, "plots": {"Time by size": "cp-sat.png"}}


def _row(n: int, m: int, limits: str, seed: int, method: str, once: Timed) -> Record:
    return {
        "n_requests": n, "n_models": m, "limits": limits, "seed": seed, "method": method, "wall_s": once.wall_s,
        "cpu_s": once.cpu_s, "gap": once.answer.gap, "objective": once.answer.objective,
        "finished": once.answer.finished,
    }  # fmt: skip


def section(result: dict[str, Any]) -> list[str]:
    """The table, and the reading."""
    rows, skipped = result["rows"], result["stamp"]["settings"].get("skipped")
    headings = ["requests x models", "limits", "certified, cold, ms", "full HiGHS, ms", "CP-SAT, ms"]
    headings += ["CP-SAT / full HiGHS", "CP-SAT / certified", "largest gap of CP-SAT"]
    lines = table(headings, [_line(case) for case in _cases(rows)])
    lines += [
        "",
        "Medians over batches, ratios batch by batch, lower bounds (>) where CP-SAT reached its time limit.",
        "",
    ]
    if skipped:
        return [*lines, f"CP-SAT was left out: {skipped}."]
    full, cold = (_by_case(rows, beside) for beside in (FULL, CERTIFIED))
    late = sum(not row["finished"] for row in where(rows, method=CP_SAT))
    return [
        *lines,
        f"- CP-SAT is faster than the full HiGHS model in {sum(r < 1 for r in full)} of {len(full)} sizes and limits "
        f"({_shown(min(full))} to {_shown(max(full))} times its time); it reached its time limit on {late} batches.",
        f"- It takes {_shown(min(cold))} to {_shown(max(cold))} times as long as the certified solver.",
    ]


def _cases(rows: list[Record]) -> list[list[Record]]:
    keys = dict.fromkeys((r["n_requests"], r["n_models"], r["limits"]) for r in rows)
    return [where(rows, n_requests=n, n_models=m, limits=limits) for n, m, limits in keys]


def _by_case(rows: list[Record], beside: str) -> list[float]:
    return [_ratio(case, beside) for case in _cases(rows)]


def _ratio(case: list[Record], beside: str) -> float:
    """Median over batches of CP-SAT's time over another's, NaN without CP-SAT."""
    other = {r["seed"]: r["cpu_s"] for r in where(case, method=beside)}
    ratios = [r["cpu_s"] / other[r["seed"]] for r in where(case, method=CP_SAT)]
    return float(np.median(ratios)) if ratios else float("nan")


def _ms(case: list[Record], method: str) -> float:
    found = [1e3 * r["cpu_s"] for r in where(case, method=method)]
    return float(np.median(found)) if found else float("nan")


def _line(case: list[Record]) -> list[str]:
    gaps = [r["gap"] for r in where(case, method=CP_SAT)]
    times = [_shown(_ms(case, method)) for method in (CERTIFIED, FULL, CP_SAT)]
    late = "" if all(r["finished"] for r in where(case, method=CP_SAT)) else "> "
    ratios = [late + _shown(_ratio(case, beside)) for beside in (FULL, CERTIFIED)]
    gap = "-" if not gaps else "none" if None in gaps else f"{max(gaps):.0e}"
    name = f"{case[0]['n_requests']:,} x {case[0]['n_models']}"
    return [name, case[0]["limits"], *times, *ratios, gap]


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def draw(result: dict[str, Any], folder: Path) -> None:
    """CPU time against pairs, both axes logarithmic, a panel for each kind of limits."""
    rows = result["rows"]
    figure, axes = panels(len(distinct(rows, "limits")), columns=3, width=4.2)
    for panel, limits in zip(axes, distinct(rows, "limits"), strict=True):
        own = where(rows, limits=limits)
        for number, method in enumerate(distinct(own, "method")):
            cases = _cases(where(own, method=method))
            pairs = [case[0]["n_requests"] * case[0]["n_models"] for case in cases]
            times = [_ms(case, method) / 1e3 for case in cases]
            panel.plot(pairs, times, color=COLOURS[number], marker=MARKERS[number], markersize=4, label=method)
        panel.set(xscale="log", yscale="log", xlabel="requests x models", ylabel="seconds of CPU", title=limits)
        panel.legend(fontsize=8)
    save(figure, folder / "cp-sat.png")
