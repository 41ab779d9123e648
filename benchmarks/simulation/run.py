"""The simulator beside the real thing: the four embedded models, half a core each, under the same requests.

Prompt and answer lengths are those that were recorded of the models, and longer answers, drawn. Engines are kept to
their core, two on each, as the plan has them. The profiles were measured one model at a time; nothing is fitted here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from allocation.cluster import Cluster
from allocation.gpus import CPU
from allocation.models import ModelSpec, load_models
from allocation.plan import PlacedReplica, Plan
from allocation.replica import Profile, ReplicaType, load_profiles
from allocation.simulate import Traffic, poisson_arrivals, simulate
from benchmarks.simulation.engines import Load, Run, run_engines
from benchmarks.stamp import stamp
from deployments.measure import Trial, engine_config
from router.prediction.outcomes import OutcomesTable

ZOO = Path("benchmarks/zoo")
SHARE = 0.5
CLIENTS = (4, 16, 64)
OPEN_LOAD = 0.7  # of what 64 clients get, simulated
LONG_TOKENS = (16, 64)
REQUESTS = 20_000  # more than any window can answer


def run(window_s: float, seed: int, console: Console) -> dict[str, Any]:
    """Plays every load on the engines and in the simulator; throughput and latency of both, and their ratio."""
    specs = load_models(ZOO / "cluster" / "models.yaml")
    plan = half_core_plan(specs)
    loads = {
        spec.name: [*_loads(plan, spec, window_s, seed, long=False), *_loads(plan, spec, window_s, seed, long=True)]
        for spec in specs
    }
    console.print(f"{sum(len(each) for each in loads.values())} runs of {window_s:g} s, four at a time")
    configs = [engine_config(spec, _trial(plan.profile(ReplicaType(spec.name, CPU, SHARE)))) for spec in specs]
    real = run_engines(configs, [0, 1, 1, 0], [loads[spec.name] for spec in specs], window_s)
    rows = []
    for spec, runs in zip(specs, real, strict=True):
        for load, measured in zip(loads[spec.name], runs, strict=True):
            rows.append(_row(spec.name, load, measured, simulated_run(plan, spec.name, load, window_s), window_s))
    return {"stamp": stamp(window_s=window_s, seed=seed, share=SHARE), "rows": rows, "totals": _totals(rows)}


def half_core_plan(specs: tuple[ModelSpec, ...]) -> Plan:
    """One replica of each model on half a core, as the measured profiles say."""
    profiles = {profile.replica: profile for profile in load_profiles(ZOO / "profiles.json")}
    replicas = [ReplicaType(spec.name, CPU, SHARE) for spec in specs]
    cluster = Cluster.load(ZOO / "cluster" / "cluster.yaml")
    cores = (0, 1, 1, 0)
    return Plan(
        cluster=cluster,
        models=specs,
        profiles=tuple(profiles[replica] for replica in replicas),
        placements=tuple(
            PlacedReplica(replica, cluster.nodes[0].name, (core,))
            for replica, core in zip(replicas, cores, strict=True)
        ),
        loads=(),
        expected_quality=0.0,
        expected_cost_usd=0.0,
        objective=0.0,
        bound=0.0,
        gap=0.0,
        budget_usd=None,
        rate_per_s=1.0,
        batch_size=1,
    )


def simulated_run(plan: Plan, model: str, load: Load, window_s: float) -> Run:
    """What the simulator says of the same load: the requests that are answered within the window."""
    column = [spec.name for spec in plan.models].index(model)
    traffic = Traffic(
        model=np.full(len(load.input_tokens), column),
        input_tokens=load.input_tokens.astype(float),
        output_tokens=load.output_tokens.astype(float),
        arrival_s=load.arrival_s,
        concurrency=load.concurrency,
    )
    result = simulate(plan, traffic)
    end_s = result.arrival_s + result.latency_s
    within = end_s <= window_s
    return Run(result.arrival_s[within], end_s[within], load.output_tokens[within])


def _loads(plan: Plan, spec: ModelSpec, window_s: float, seed: int, *, long: bool) -> list[Load]:
    inputs, outputs = _lengths(spec, seed, long)
    kind = "long answers" if long else "recorded lengths"
    closed = [Load(f"{kind}, {clients} clients", inputs, outputs, None, clients) for clients in CLIENTS]
    most_per_s = len(simulated_run(plan, spec.name, closed[-1], window_s).end_s) / window_s
    rate_per_s = OPEN_LOAD * most_per_s
    count = int(rate_per_s * window_s * 1.5) + 1
    arrivals = poisson_arrivals(count, rate_per_s, seed)
    return [*closed, Load(f"{kind}, {OPEN_LOAD:.0%} load", inputs[:count], outputs[:count], arrivals, None)]


def _lengths(spec: ModelSpec, seed: int, long: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tokens of prompts and answers, (REQUESTS,): drawn from the recorded ones of the model."""
    rng = np.random.default_rng(seed)
    table = OutcomesTable.load(ZOO / "recorded").select_models([spec.name])
    rows = rng.integers(0, len(table), REQUESTS)
    inputs = table.input_tokens[rows, 0].astype(np.int64)
    if long:
        outputs = rng.integers(*LONG_TOKENS, REQUESTS)
    else:
        outputs = np.maximum(table.output_tokens[rows, 0].astype(np.int64), 1)
    return inputs, np.minimum(outputs, spec.max_model_len - inputs)


def _trial(profile: Profile) -> Trial:
    return Trial(profile.replica, profile.max_num_seqs, profile.kv_cache_gib, profile.weights_gib)


def _row(model: str, load: Load, real: Run, simulated: Run, window_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "load": load.name}
    for name, result in (("real", real), ("simulated", simulated)):
        latency_s = result.end_s - result.arrival_s
        row[name] = {
            "requests_per_s": len(latency_s) / window_s,
            "tokens_per_s": int(result.output_tokens.sum()) / window_s,
            **{f"latency_s_p{level}": float(np.percentile(latency_s, level)) for level in (50, 95, 99)},
        }
    for name in ("tokens_per_s", "latency_s_p50", "latency_s_p95"):
        row[f"{name}_ratio"] = row["simulated"][name] / row["real"][name]
    return row


def _totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By load: throughput of the four engines together."""
    totals = []
    for load in dict.fromkeys(row["load"] for row in rows):
        of_load = [row for row in rows if row["load"] == load]
        real, simulated = (sum(row[name]["tokens_per_s"] for row in of_load) for name in ("real", "simulated"))
        totals.append({"load": load, "real": real, "simulated": simulated, "ratio": simulated / real})
    return totals


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="simulated beside real, four engines on two cores")
    for column in ("model", "load", "real tokens/s", "simulated", "ratio", "p50 ratio", "p95 ratio"):
        table.add_column(column, justify="left" if column in ("model", "load") else "right")
    for row in result["rows"]:
        table.add_row(
            row["model"],
            row["load"],
            f"{row['real']['tokens_per_s']:,.0f}",
            f"{row['simulated']['tokens_per_s']:,.0f}",
            f"{row['tokens_per_s_ratio']:.2f}",
            f"{row['latency_s_p50_ratio']:.2f}",
            f"{row['latency_s_p95_ratio']:.2f}",
        )
    for total in result["totals"]:
        numbers = (f"{total['real']:,.0f}", f"{total['simulated']:,.0f}", f"{total['ratio']:.2f}")
        table.add_row("all", total["load"], *numbers, "", "")
    console.print(table)
