"""How long a plan takes: 20 models on 4 types of GPU in 6 shares and 3 group sizes, 2,000 requests in batches of 100,
from a rate that hardly binds to one near the limit. Each search has one thread, 60 seconds, and 1 % to prove.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GpuType
from apportion.allocation.models import ModelSpec
from apportion.allocation.optimise import optimise
from apportion.allocation.placement import place
from apportion.allocation.plan import check_placements
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.trim import trim
from apportion.allocation.workload import Workload
from apportion.router.estimates import Estimates
from apportion.router.evaluation.plot import COLOURS
from apportion.router.prices import ModelPrice
from benchmarks.experiments.context import Context
from benchmarks.experiments.drawing import panels, save
from benchmarks.experiments.report import table

TITLE = "Planning: time to a plan"

N_MODELS, N_BATCHES, BATCH_SIZE = 20, 20, 100
TYPES = (GpuType("80-GiB", 80, 2000, 312), GpuType("40-GiB", 40, 1500, 312), GpuType("24-GiB", 24, 900, 125),
         GpuType("141-GiB", 141, 4800, 989))  # fmt: skip
SHARES = (0.125, 0.1666, 0.25, 0.3333, 0.5, 1.0)
GROUPS = (2, 4, 8)
GAP = 0.01
TIME_LIMIT_S = 60.0
# Nodes of 8 GPUs of each type, requests/s, high availability.
CASES = ((8, 300.0, False), (8, 20_000.0, False), (8, 60_000.0, False), (8, 60_000.0, True), (1, 8_000.0, False))
SMOKE_CASES = ((1, 300.0, False),)


@dataclass(frozen=True)
class Timing:
    """n_gpus, replica_types, rate_per_s: of the case; wall_s, cpu_s: from problem to placed replicas; gap proved."""

    n_gpus: int
    replica_types: int
    rate_per_s: float
    high_availability: bool
    wall_s: float
    cpu_s: float
    gap: float
    objective: float
    replicas: int


def instance(nodes_of_each: int, rate_per_s: float, high_availability: bool, seed: int = 0) -> AllocationProblem:
    """Models of 0.5 to 70 billion parameters, dearer ones better; the budget lies 40 % of the way to the best."""
    rng = np.random.default_rng(seed)
    billions = np.geomspace(0.5, 70, N_MODELS)
    names = [f"model-{j:02d}" for j in range(N_MODELS)]
    n = N_BATCHES * BATCH_SIZE
    skill = np.linspace(-1, 2, N_MODELS) + rng.normal(0, 0.3, N_MODELS)
    success = 1 / (1 + np.exp(rng.normal(0, 1.3, (n, 1)) - skill - rng.normal(0, 0.8, (n, N_MODELS))))
    tokens = rng.lognormal(5.5, 0.7, (n, 1)) * rng.lognormal(0, 0.3, (n, N_MODELS))
    price = np.geomspace(0.1, 10, N_MODELS)
    cost = tokens * price * 1e-6
    cheapest, best = cost.min(axis=1).mean(), cost[np.arange(n), success.argmax(axis=1)].mean()
    nodes = tuple(Node(f"{t.name}-{i}", t.name, 8) for t in TYPES for i in range(nodes_of_each))
    found = [_profile(name, b, t, share, gpus) for name, b in zip(names, billions, strict=True)
             for t in TYPES for share, gpus in ((*((s, 1) for s in SHARES), *((1.0, g) for g in GROUPS)))]  # fmt: skip
    return AllocationProblem.of(
        Cluster(nodes, {t.name: t for t in TYPES}),
        [
            ModelSpec(name, "none", ModelPrice(0, float(p)), max_model_len=1 << 20)
            for name, p in zip(names, price, strict=True)
        ],
        [profile for profile in found if profile is not None],
        Workload(tuple(names), Estimates(success, cost, np.zeros_like(tokens), tokens), rate_per_s),
        np.arange(n).reshape(N_BATCHES, BATCH_SIZE),
        Requirements(budget_usd=float(cheapest + 0.4 * (best - cheapest)), high_availability=high_availability),
    )


def measure(nodes_of_each: int, rate_per_s: float, high_availability: bool, time_limit_s: float) -> Timing:
    """One plan, placed and checked."""
    problem = instance(nodes_of_each, rate_per_s, high_availability)
    wall, cpu = time.perf_counter(), time.process_time()
    found = trim(problem, optimise(problem, gap=GAP, time_limit_s=time_limit_s))
    placed = place(found).placed
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    check_placements(problem.cluster, placed)
    return Timing(
        problem.cluster.n_gpus, len(problem.replicas), rate_per_s, high_availability, wall, cpu, found.gap,
        found.objective, len(placed),
    )  # fmt: skip


def _profile(name: str, billions: float, gpu: GpuType, share: float, gpus: int) -> Profile | None:
    """Two bytes a parameter; a step reads them and the caches once. Small models are not spread over several GPUs."""
    weights, cache = 2 * billions, 0.02 * float(np.sqrt(billions))
    room = 0.9 * gpu.memory_gib * share * gpus - weights
    sequences = min(256 * gpus, int(room / cache))
    if sequences < 1 or (gpus > 1 and billions < 10):
        return None
    step_s = (weights + sequences * cache / 2) / (gpu.bandwidth_gb_per_s * share * gpus * (0.8 if gpus > 1 else 1.0))
    return Profile(
        ReplicaType(name, gpu.name, share, gpus), True, sequences, sequences / step_s, 1e6, 0.1, weights, room,
        "computed",
    )  # fmt: skip


def run(context: Context) -> dict[str, Any]:
    """All cases, each on one thread."""
    cases = SMOKE_CASES if context.smoke else CASES
    rows = []
    with context.bars() as bars:
        task = bars.add_task("planning", total=len(cases))
        for case in cases:
            rows.append(asdict(measure(*case, TIME_LIMIT_S)))
            bars.advance(task)
    context.work_s.append(sum(row["wall_s"] for row in rows))
    settings = {"gap": GAP, "time_limit_s": TIME_LIMIT_S, "requests": N_BATCHES * BATCH_SIZE, "models": N_MODELS}
    return {"settings": settings, "rows": rows, "plots": {"Time to a plan": "planning.png"}}


def section(result: dict[str, Any]) -> list[str]:
    """The table, and what was not proved in time."""
    settings, rows = result["stamp"]["settings"], result["rows"]
    cells = [
        [
            _case(row), f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['gap']:.2%}",
            "yes" if row["gap"] <= settings["gap"] else "no", str(row["replicas"]),
        ]
        for row in rows
    ]  # fmt: skip
    wanted = f"{settings['gap']:.0%} proved"
    short = [_case(row) for row in rows if row["gap"] > settings["gap"]]
    return [
        *table(["GPUs, requests/s", "wall, s", "CPU, s", "gap proved", wanted, "replicas"], cells),
        "",
        f"From the problem to placed replicas, of which the search may take {settings['time_limit_s']:g} s of wall "
        "time. Wall times far above CPU times say that other processes had the machine.",
        "",
        f"- Not within {settings['gap']:.0%} when the time was over: {'; '.join(short) or 'none'}.",
    ]


def _case(row: dict[str, Any]) -> str:
    available = ", high availability" if row["high_availability"] else ""
    return f"{row['n_gpus']}, {row['rate_per_s']:,.0f}{available}"


def draw(result: dict[str, Any], folder: Path) -> None:
    """Wall and CPU seconds of every case."""
    figure, (axes,) = panels(1)
    place_of = np.arange(len(result["rows"]))
    for number, (field, label) in enumerate((("wall_s", "wall"), ("cpu_s", "CPU"))):
        seconds = [row[field] for row in result["rows"]]
        axes.barh(place_of + 0.4 * number, seconds, 0.4, color=COLOURS[number], label=label)
    axes.set_yticks(place_of + 0.2, [_case(row) for row in result["rows"]])
    axes.set(xlabel="seconds", ylabel="GPUs, requests/s")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    save(figure, folder / "planning.png")
