"""The simulator beside the real thing: the four embedded models on cores, under the same requests.

Prompt and answer lengths are those that were recorded of the models, and longer answers, drawn. An engine has a core of
its own, or two share one. What an engine is given of it in a run is read from the clock of its processor time, since
other work may run on the machine, and the simulated replica has that share; speeds are those of the profiles, measured
before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from apportion.allocation.cluster import Cluster
from apportion.allocation.gpus import CPU
from apportion.allocation.models import ModelSpec, load_models
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.replica import Profile, ReplicaType, load_profiles
from apportion.allocation.simulate import Traffic, simulate
from apportion.deployments import zoo
from apportion.deployments.engine.measure import Trial, engine_config
from apportion.router.arrays import IntArray
from apportion.router.outcomes import read_outcomes
from benchmarks.simulation.engines import Load, Run, run_engines
from benchmarks.stamp import stamp

ZOO = Path("benchmarks/zoo")
# Engines that run at the same time, and the cores that they are kept to.
ARMS = (
    ("a core each", ("wren", "heron"), (0, 1)),
    ("a core each", ("finch", "lark"), (0, 1)),
    ("two on a core", ("wren", "finch", "lark", "heron"), (0, 1, 1, 0)),
)
CLIENTS = (4, 16, 64)
LONG_TOKENS = (16, 64)
REQUESTS = 20_000  # more than any window can answer


def run(window_s: float, seed: int, console: Console) -> dict[str, Any]:
    """Plays every load on the engines and in the simulator; throughput and latency of both, and their ratio."""
    specs = {spec.name: spec for spec in load_models(ZOO / "cluster" / "models.yaml").specs}
    cores = {p.replica.model: p for p in load_profiles(zoo.PROFILES) if p.replica.gpu_fraction == 1}
    loads = {name: [*_loads(spec, seed, long=False), *_loads(spec, seed, long=True)] for name, spec in specs.items()}
    rows = []
    for arm, names, places in ARMS:
        console.print(f"{', '.join(names)}: {arm}, {len(loads[names[0]])} loads of {window_s:g} s")
        configs = [engine_config(specs[name], _trial(cores[name])) for name in names]
        real = run_engines(configs, places, [loads[name] for name in names], window_s)
        for name, runs in zip(names, real, strict=True):
            for load, measured in zip(loads[name], runs, strict=True):
                plan = plan_of(specs[name], cores[name], measured.cores)
                rows.append(_row(arm, name, load, measured, simulated_run(plan, load, window_s), window_s))
    return {"stamp": stamp(window_s=window_s, seed=seed), "rows": rows, "totals": _totals(rows)}


def plan_of(spec: ModelSpec, core: Profile, share: float) -> Plan:
    """One replica of the model on a share of a core, from the profile of a whole one."""
    share = min(round(share, 4), 1.0)
    replica = ReplicaType(spec.name, CPU, share)
    profile = replace(
        core,
        replica=replica,
        tokens_per_s=core.tokens_per_s * share,
        prefill_tokens_per_s=core.prefill_tokens_per_s * share,
        prompt_step_s=core.prompt_step_s / share,
        decode_curve=tuple((sequences, speed * share) for sequences, speed in core.decode_curve),
    )
    cluster = Cluster.load(ZOO / "cluster" / "cluster.yaml")
    return Plan(
        cluster=cluster,
        models=(spec,),
        profiles=(profile,),
        placements=(PlacedReplica(replica, cluster.nodes[0].name, (0,)),),
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


def simulated_run(plan: Plan, load: Load, window_s: float) -> Run:
    """What the simulator says of the same load: the requests that are answered within the window."""
    traffic = Traffic(
        model=np.zeros(len(load.input_tokens), dtype=np.int64),
        input_tokens=load.input_tokens.astype(float),
        output_tokens=load.output_tokens.astype(float),
        concurrency=load.concurrency,
    )
    result = simulate(plan, traffic)
    end_s = result.arrival_s + result.latency_s
    within = end_s <= window_s
    share = plan.placements[0].replica.gpu_fraction
    return Run(result.arrival_s[within], end_s[within], load.output_tokens[within], share)


def _loads(spec: ModelSpec, seed: int, *, long: bool) -> list[Load]:
    inputs, outputs = _lengths(spec, seed, long)
    kind = "long answers" if long else "recorded lengths"
    return [Load(f"{kind}, {clients} clients", inputs, outputs, clients) for clients in CLIENTS]


def _lengths(spec: ModelSpec, seed: int, long: bool) -> tuple[IntArray, IntArray]:
    """Tokens of prompts and answers, (REQUESTS,): drawn from the recorded ones of the model."""
    rng = np.random.default_rng(seed)
    table = read_outcomes(ZOO / "recorded").select_models([spec.name])
    rows = rng.integers(0, len(table), REQUESTS)
    inputs = table.input_tokens[rows, 0].astype(np.int64)
    if long:
        outputs = rng.integers(*LONG_TOKENS, REQUESTS)
    else:
        outputs = np.maximum(table.output_tokens[rows, 0].astype(np.int64), 1)
    return inputs, np.minimum(outputs, spec.max_model_len - inputs)


def _trial(profile: Profile) -> Trial:
    core = Cluster.load(ZOO / "cluster" / "cluster.yaml").gpu_types[CPU]
    return Trial(profile.replica, core, profile.max_num_seqs, profile.kv_cache_gib, profile.weights_gib)


def _row(arm: str, model: str, load: Load, real: Run, simulated: Run, window_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm, "model": model, "load": load.name, "cores": real.cores}
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
    """By arm and load: throughput of the four engines together."""
    totals = []
    for arm, load in dict.fromkeys((row["arm"], row["load"]) for row in rows):
        of_load = [row for row in rows if (row["arm"], row["load"]) == (arm, load)]
        real, simulated = (sum(row[name]["tokens_per_s"] for row in of_load) for name in ("real", "simulated"))
        totals.append({"arm": arm, "load": load, "real": real, "simulated": simulated, "ratio": simulated / real})
    return totals


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="simulated beside real")
    for column in ("arm", "model", "load", "cores", "real tokens/s", "simulated", "ratio", "p50 ratio", "p95 ratio"):
        table.add_column(column, justify="left" if column in ("arm", "model", "load") else "right")
    for row in result["rows"]:
        table.add_row(
            row["arm"],
            row["model"],
            row["load"],
            f"{row['cores']:.2f}",
            f"{row['real']['tokens_per_s']:,.0f}",
            f"{row['simulated']['tokens_per_s']:,.0f}",
            f"{row['tokens_per_s_ratio']:.2f}",
            f"{row['latency_s_p50_ratio']:.2f}",
            f"{row['latency_s_p95_ratio']:.2f}",
        )
    for total in result["totals"]:
        numbers = (f"{total['real']:,.0f}", f"{total['simulated']:,.0f}", f"{total['ratio']:.2f}")
        table.add_row(total["arm"], "all", total["load"], "", *numbers, "", "")
    console.print(table)
