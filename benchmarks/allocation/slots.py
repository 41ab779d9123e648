"""Twelve public models on up to 1,024 GPUs at 3,000 requests/s: GPUs and USD of a plan whose slots hold whole contexts,
beside one whose slots follow from the requests' lengths. The requests and the chances of good answers are made up.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.planner import PlanOptions, make_plan
from apportion.allocation.problem import Requirements
from apportion.allocation.profile import Typical, compute_profiles
from apportion.allocation.replica import Profile
from apportion.allocation.workload import Workload
from apportion.router.estimates import Estimates
from apportion.router.evaluation.plot import COLOURS
from apportion.router.prices import ModelPrice
from benchmarks.experiments.context import Context
from benchmarks.experiments.drawing import panels, save
from benchmarks.experiments.report import table
from benchmarks.profiles.models import MODELS

TITLE = "Slots: whole contexts or the requests' lengths"
PLOT = "slots.png"

# How good a model is on the made-up scale, and USD for a million tokens; the largest are the best.
SKILL = {
    "Llama-3.2-1B": (-0.8, 0.03), "Llama-3.2-3B": (-0.2, 0.06), "Llama-3.1-8B": (0.5, 0.15),
    "Mistral-7B-v0.1": (0.2, 0.15), "Mixtral-8x7B": (0.7, 0.5), "Qwen2.5-7B": (0.5, 0.15), "Qwen2.5-14B": (0.9, 0.3),
    "Qwen2.5-72B": (1.7, 0.9), "Qwen3-4B": (0.4, 0.08), "Qwen3-30B-A3B": (1.1, 0.3), "Gemma-2-9B": (0.6, 0.2),
    "DeepSeek-V2-Lite": (0.4, 0.15),
}  # fmt: skip
USD_PER_HOUR = {"H100": 2.5, "L4": 0.8}
# Nodes of 8 H100 and of 4 L4, and requests/s.
SIZE, SMOKE_SIZE = (96, 64, 3000.0), (2, 1, 20.0)
N_REQUESTS, N_BATCHES, GAP, TIME_LIMIT_S = 1500, 6, 2e-3, 60.0


@dataclass(frozen=True)
class Row:
    """slots: how they were found; gpus: in use; success: expected of a request; gap: proved; plan_s: seconds."""

    slots: str
    gpus: int
    usd_per_hour: float
    success: float
    gap: float
    plan_s: float


def workload(models: tuple[ModelSpec, ...], rate_per_s: float, seed: int = 0) -> Workload:
    """Prompts of about 330 tokens and answers of about 150, of varying difficulty."""
    rng = np.random.default_rng(seed)
    n, m = N_REQUESTS, len(models)
    skill = np.array([SKILL[model.name][0] for model in models])
    difficulty = rng.normal(0, 1.3, (n, 1))
    success = 1 / (1 + np.exp(difficulty - skill - rng.normal(0, 0.8, (n, m))))
    outputs = rng.lognormal(5.0, 0.7, (n, 1)) * rng.lognormal(0, 0.2, (n, m))
    inputs = np.repeat(rng.lognormal(5.8, 0.7, (n, 1)), m, axis=1)
    usd = np.array([model.price.output_usd_per_million for model in models]) * 1e-6
    return Workload(
        tuple(model.name for model in models), Estimates(success, (inputs + outputs) * usd, inputs, outputs), rate_per_s
    )


def offered(cluster: Cluster, names: tuple[str, ...]) -> tuple[tuple[ModelSpec, ...], tuple[Profile, ...]]:
    """The models, each with its own whole context, and their computed profiles."""
    with TemporaryDirectory() as folder:
        specs = []
        for name in names:
            path = Path(folder) / name
            path.mkdir()
            (path / "config.json").write_text(json.dumps(MODELS[name]))
            longest = int(MODELS[name]["max_position_embeddings"])
            specs.append(ModelSpec(name, str(path), ModelPrice(*2 * (SKILL[name][1],)), max_model_len=longest))
        profiles = compute_profiles(specs, cluster, Typical(330, 150))
    return tuple(specs), profiles


def run(context: Context) -> dict[str, Any]:
    """Both plans."""
    h100, l4, rate_per_s = SMOKE_SIZE if context.smoke else SIZE
    nodes = [*(Node(f"h{i}", "H100", 8) for i in range(h100)), *(Node(f"l{i}", "L4", 4) for i in range(l4))]
    cluster = Cluster(tuple(nodes), GPU_TYPES).priced(USD_PER_HOUR)
    names = tuple(SKILL)[:2] if context.smoke else tuple(SKILL)
    models, profiles = offered(cluster, names)
    rows = []
    for slots, safety in (("whole contexts", 1.0), ("the requests' lengths", 0.99)):
        started = time.perf_counter()
        options = PlanOptions(
            Requirements(), n_batches=N_BATCHES, cache_safety=safety, gap=GAP, time_limit_s=TIME_LIMIT_S
        )
        made = make_plan(cluster, models, profiles, workload(models, rate_per_s), options)
        used = sum(cost.used for cost in made.bill.gpus)
        spent = made.bill.gpus_usd_per_hour or 0.0
        passed = time.perf_counter() - started
        rows.append(asdict(Row(slots, used, spent, made.plan.expected_quality, made.plan.gap, passed)))
        context.work_s.append(passed)
    settings = {"rate_per_s": rate_per_s, "gpus": cluster.n_gpus, "models": len(names), "usd_per_hour": USD_PER_HOUR}
    return {"settings": settings, "rows": rows, "plots": {TITLE: PLOT}}


def section(result: dict[str, Any]) -> list[str]:
    """The table, and what the lengths save."""
    settings, rows = result["stamp"]["settings"], result["rows"]
    cells = [
        [row["slots"], f"{row['gpus']:,}", f"{row['usd_per_hour']:,.0f}", f"{row['success']:.4f}", f"{row['gap']:.2%}",
         f"{row['plan_s']:.1f}"]
        for row in rows
    ]  # fmt: skip
    before, after = rows
    saved = 1 - after["usd_per_hour"] / before["usd_per_hour"]
    prices = ", ".join(f"{usd:g} for an {name}" for name, usd in settings["usd_per_hour"].items())
    return [
        *table(["slots for", "GPUs", "USD an hour", "expected success", "gap proved", "planned in s"], cells),
        "",
        f"{settings['models']} models, {settings['gpus']:,} GPUs, {settings['rate_per_s']:,.0f} requests/s; USD an "
        f"hour: {prices} (assumed).",
        "",
        f"- Slots by the requests' lengths take {saved:.0%} less money, and "
        f"{100 * (after['success'] - before['success']):+.1f} points of success come with it.",
    ]


def draw(result: dict[str, Any], folder: Path) -> None:
    """USD an hour and success of both plans."""
    figure, axes = panels(2)
    for panel, (field, label) in zip(
        axes, (("usd_per_hour", "USD an hour"), ("success", "expected success")), strict=True
    ):
        panel.bar([row["slots"] for row in result["rows"]], [row[field] for row in result["rows"]], color=COLOURS[:2])
        panel.set(ylabel=label)
    save(figure, folder / PLOT)
