"""How fast the certified solver is beside the plain full model, over batch sizes and limits.

Every size is solved in the same run by the full Pyomo model through HiGHS (one thread, the same gap), by the solver
from nothing (cold), and by the solver from the prices of another batch of the same kind (warm). The full model has
a time limit; where it stops there, the ratio is a lower bound.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.stamp import stamp
from router.assignment import (
    Assignment,
    BatchProblem,
    Mip,
    Prices,
    assign,
    full_model,
    solve_model,
    warm_up,
)

GAP = 1e-4
SIZES = ((16, 3), (64, 4), (256, 16), (1024, 11), (4096, 16), (16384, 11), (65536, 16), (1_000_000, 16))
LARGEST_FULL = 200_000
LIMITS = {"budget": (0.4, 100.0), "budget and slots": (0.4, 1.3), "slots": (np.inf, 1.05)}


@dataclass(frozen=True)
class Timing:
    """One solve. wall_s, cpu_s; gap proved; peak_mib: of the process so far, so comparable down a column."""

    n_requests: int
    n_models: int
    limits: str
    seed: int
    method: str
    wall_s: float
    cpu_s: float
    gap: float
    objective: float
    finished: bool
    peak_mib: float


def batch(n: int, m: int, limits: str, seed: int) -> BatchProblem:
    """Requests of varying difficulty, models of rising skill and price, answers of varying length.

    The budget lies 40 % of the way from the cheapest to the best choice; slots are a multiple of an even share.
    """
    rng = np.random.default_rng([seed, n, m])
    skill, difficulty = np.linspace(-0.5, 2.0, m), rng.normal(0, 1.3, (n, 1))
    success = 1 / (1 + np.exp(difficulty - skill - rng.normal(0, 0.8, (n, m))))
    price = np.geomspace(0.1, 10, m) * 1e-6
    cost = price * rng.lognormal(5.5, 0.7, (n, 1)) * rng.lognormal(0, 0.3, (n, m))
    budget_share, slots_share = LIMITS[limits]
    cheapest, best = cost.min(axis=1).sum(), cost[np.arange(n), success.argmax(axis=1)].sum()
    budget = cheapest + budget_share * (best - cheapest) if np.isfinite(budget_share) else np.inf
    slots = np.full(m, int(np.ceil(n / m * slots_share)))
    return BatchProblem(success, cost, slots, float(budget))


def run(
    sizes: tuple[tuple[int, int], ...] = SIZES,
    *,
    seeds: int = 5,
    full_time_limit_s: float = 120.0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Time every size; `seeds` batches each, fewer where one takes long. Returns the stamped rows and ratios."""
    warm_up()
    cases = [(n, m, limits) for n, m in sizes for limits in LIMITS]
    rows: list[Timing] = []
    for n, m, limits in track(cases, "solver", console=console or Console(stderr=True)):
        prices: Prices | None = None
        for seed in range(_repeats(n * m, seeds)):
            problem = batch(n, m, limits, seed)
            cold, answer = _timed(problem, limits, seed, "cold", None)
            rows.append(cold)
            if prices is not None:
                rows.append(_timed(problem, limits, seed, "warm", prices)[0])
            prices = answer.prices
            if n * m <= LARGEST_FULL and (n * m <= 20_000 or seed == 0):
                rows.append(_full(problem, limits, seed, full_time_limit_s))
    return {
        **stamp(gap=GAP, threads=1, seeds=seeds, full_time_limit_s=full_time_limit_s),
        "rows": [asdict(row) for row in rows],
        "summary": summary(rows),
    }


def _repeats(pairs: int, seeds: int) -> int:
    return seeds if pairs <= 200_000 else max(2, seeds // 2) if pairs <= 2_000_000 else 2


def _timed(
    problem: BatchProblem, limits: str, seed: int, method: str, warm: Prices | None
) -> tuple[Timing, Assignment]:
    wall, cpu = time.perf_counter(), time.process_time()
    answer = assign(problem, Mip(gap=GAP), warm=warm)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if not answer.feasible:
        raise RuntimeError(f"{problem.success.shape} {limits} seed {seed} has no answer: {answer.infeasibility}")
    done = answer.gap <= GAP
    return _timing(problem, limits, seed, method, wall, cpu, answer.gap, answer.objective, done), answer


def _full(problem: BatchProblem, limits: str, seed: int, time_limit_s: float) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    solution = solve_model(full_model(problem), gap=GAP, time_limit_s=time_limit_s)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    gap = (solution.bound - solution.objective) / abs(solution.objective)
    return _timing(problem, limits, seed, "full model", wall, cpu, gap, solution.objective, not solution.timed_out)


def _timing(
    problem: BatchProblem,
    limits: str,
    seed: int,
    method: str,
    wall_s: float,
    cpu_s: float,
    gap: float,
    objective: float,
    finished: bool,
) -> Timing:
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    n, m = problem.success.shape
    return Timing(n, m, limits, seed, method, wall_s, cpu_s, gap, objective, finished, peak_mib)


def summary(rows: list[Timing]) -> list[dict[str, Any]]:
    """Medians of each size and limits, and the median over batches of full time / cold time of the same batch."""
    result = []
    for n, m, limits in dict.fromkeys((r.n_requests, r.n_models, r.limits) for r in rows):
        case = [r for r in rows if (r.n_requests, r.n_models, r.limits) == (n, m, limits)]
        by = {name: {r.seed: r for r in case if r.method == name} for name in ("cold", "warm", "full model")}
        ratios = [by["full model"][seed].wall_s / by["cold"][seed].wall_s for seed in by["full model"]]
        result.append(
            {
                "n_requests": n,
                "n_models": m,
                "limits": limits,
                **{f"{name.split()[0]}_ms": _median([1e3 * r.wall_s for r in by[name].values()]) for name in by},
                "cold_cpu_ms": _median([1e3 * r.cpu_s for r in by["cold"].values()]),
                "ratio": _median(ratios),
                "least_ratio": min(ratios, default=None),
                "full_finished": all(r.finished for r in by["full model"].values()),
                "worst_gap": max(r.gap for r in by["cold"].values()),
                "peak_mib": max(r.peak_mib for r in by["cold"].values()),
            }
        )
    return result


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


HEADINGS = (
    "requests", "models", "limits that bind", "full model, ms", "cold, ms", "warm, ms", "cold CPU, ms",
    "full / cold", "least", "largest gap", "peak MiB",
)  # fmt: skip


def lines(result: dict[str, Any]) -> list[list[str]]:
    """The summary as cells in the order of HEADINGS."""
    return [
        [
            f"{row['n_requests']:,}",
            str(row["n_models"]),
            row["limits"],
            _cell(row["full_ms"], ".4g", "" if row["full_finished"] else "> "),
            _cell(row["cold_ms"], ".3g"),
            _cell(row["warm_ms"], ".3g"),
            _cell(row["cold_cpu_ms"], ".3g"),
            _cell(row["ratio"], ".3g", "" if row["full_finished"] else "> "),
            _cell(row["least_ratio"], ".3g"),
            f"{row['worst_gap']:.0e}",
            f"{row['peak_mib']:.0f}",
        ]
        for row in result["summary"]
    ]


def _cell(value: float | None, spec: str, prefix: str = "") -> str:
    return "-" if value is None else f"{prefix}{value:{spec}}"


def markdown(result: dict[str, Any]) -> str:
    """The summary as a Markdown page."""
    machine, settings = result["machine"], result["settings"]
    table = [HEADINGS, ["---:"] * len(HEADINGS), *lines(result)]
    return "\n".join(
        [
            "# Solver",
            "",
            f"Made by `python -m benchmarks.solver` at {result['commit']}, {result['time']}, on {machine['cpu']} "
            f"({machine['cores']} cores), Python {machine['python']}.",
            "",
            (__doc__ or "").strip(),
            "",
            f"Relative gap {settings['gap']:g}, one thread, medians over up to {settings['seeds']} random batches. "
            "`full / cold` is the median of the ratios batch by batch, `least` the smallest of them.",
            "",
            *("| " + " | ".join(row) + " |" for row in table),
            "",
        ]
    )


def show(result: dict[str, Any], console: Console) -> None:
    """Print the summary."""
    table = Table(*HEADINGS, title="Solver")
    for cells in lines(result):
        table.add_row(*cells)
    console.print(table)


def main(
    out: Annotated[Path | None, typer.Option(help="Folder for solver.json and solver.md.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Batches of a size.")] = 5,
    largest: Annotated[int, typer.Option(help="Leave out sizes with more requests than this.")] = 1_000_000,
    full_time_limit_s: Annotated[float, typer.Option(help="Time limit of the full model.")] = 120.0,
) -> None:
    """Time the solver beside the full model."""
    console = Console()
    sizes = tuple(size for size in SIZES if size[0] <= largest)
    result = run(sizes, seeds=seeds, full_time_limit_s=full_time_limit_s, console=console)
    show(result, console)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "solver.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "solver.md").write_text(markdown(result))


if __name__ == "__main__":
    typer.run(main)
