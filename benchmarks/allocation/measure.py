"""Planned, uniform, proportional and greedy allocations of the same GPUs, from scarce to plenty, at equal spend."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from allocation.cluster import Cluster, Node
from allocation.gpus import GPU_TYPES
from allocation.models import ModelSpec
from allocation.optimise import optimise
from allocation.problem import AllocationProblem, Requirements
from allocation.profile import SHARES, TENSOR_PARALLEL, Typical, compute_profiles
from allocation.replica import Profile, ReplicaType
from allocation.trim import trim
from benchmarks.allocation.baselines import greedy, proportional, uniform
from benchmarks.allocation.held_out import at_spend, realised, workloads
from benchmarks.allocation.needs import DATA_SETS, specs
from benchmarks.stamp import stamp
from router.errors import DeadlineError, InfeasibleError
from router.evaluation.case import Case, fit_case, usable
from router.prediction.encoder import Encoder
from router.prediction.knn import KnnEstimator
from router.prediction.outcomes import OutcomesTable
from router.prediction.training import complete_tokens, encode_in_steps

GPU = "A100-80GB"
NODE_GPUS = 4
GPUS = (4, 8, 16, 32)
# The rate at which the best single model alone would take so many GPUs.
BEST_ALONE_GPUS = 16
BUDGET_SHARE = 0.5
BUDGETS = (0.3, 0.5, 0.8)
BATCH_SIZE = 64
PLAN_BATCHES = 5
QUANTILE = 0.25
GAP = 5e-3
TIME_LIMIT_S = 120.0
MOST_TEST_BATCHES = 16
ARMS = ("planned", "planned_robust", "greedy", "proportional", "uniform")


@dataclass(frozen=True)
class Row:
    """One arm on the test requests of one seed.

    score: at a realised spend of BUDGET_SHARE of what the best single model costs there. served_score: without any
    limit of spend. refused: share of requests without an answer at the planned budget. expected: what the planner
    promised (planned arms). plan_s, gap: of the search.
    """

    data: str
    seed: int
    n_gpus: int
    arm: str
    score: float
    unlimited_score: float
    refused: float
    gpus_used: float
    expected: float | None
    plan_s: float
    gap: float | None
    replicas: dict[str, int]


def run(data: Path, seeds: int, console: Console) -> dict[str, Any]:
    """Every seed, number of GPUs and arm on both data sets."""
    rows: list[Row] = []
    settings: dict[str, Any] = {}
    encoder = Encoder.load("minilm", device="auto")
    for name, needs in DATA_SETS.items():
        table = complete_tokens(usable(OutcomesTable.load(data / name)), encoder).select_models(list(needs))
        console.print(f"{name}: {len(table)} requests", highlight=False)
        features = encode_in_steps(table.prompts, encoder)
        with TemporaryDirectory() as folder:
            models = specs(needs, dict(table.prices), Path(folder))
            profiles = _profiles(models, table)
        settings[name] = {"requests": len(table), "models": needs}
        for seed in range(seeds):
            case = fit_case(table, features, "knn-40", KnnEstimator(40), seed)
            rows += _seed(name, table, case, models, profiles, console)
    return {
        "stamp": stamp(
            seeds=seeds, gpu=GPU, node_gpus=NODE_GPUS, best_alone_gpus=BEST_ALONE_GPUS, budget_share=BUDGET_SHARE,
            batch_size=BATCH_SIZE, plan_batches=PLAN_BATCHES, quantile=QUANTILE, gap=GAP, data=settings,
        ),
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip


def _profiles(models: tuple[ModelSpec, ...], table: OutcomesTable) -> tuple[Profile, ...]:
    typical = Typical(int(table.input_tokens.mean()), int(table.output_tokens.mean()), 1024)
    return compute_profiles(models, _cluster(max(GPUS)), typical, SHARES, TENSOR_PARALLEL)


def _cluster(n_gpus: int) -> Cluster:
    nodes = tuple(Node(f"node-{i}", GPU, min(NODE_GPUS, n_gpus)) for i in range(max(1, n_gpus // NODE_GPUS)))
    return Cluster(nodes, {GPU: GPU_TYPES[GPU]})


def _seed(
    name: str,
    table: OutcomesTable,
    case: Case,
    models: tuple[ModelSpec, ...],
    profiles: tuple[Profile, ...],
    console: Console,
) -> list[Row]:
    rate = _rate_per_s(table, case, models, profiles)
    planning, testing = workloads(table, case, models, rate)
    budget_usd = BUDGET_SHARE * float(case.validation.cost_usd[:, case.best].mean())
    requirements = Requirements(budget_usd=budget_usd)
    sampled = planning.batches(BATCH_SIZE, PLAN_BATCHES, case.seed)
    held = testing.batches(BATCH_SIZE, min(MOST_TEST_BATCHES, len(testing) // BATCH_SIZE), case.seed)
    spend_usd = BUDGET_SHARE * float(case.test.paid_usd[held.ravel(), case.best].mean())
    rows = []
    for n_gpus in GPUS:
        cluster = _cluster(n_gpus)
        problem = AllocationProblem.of(cluster, models, profiles, planning, sampled, requirements)
        cautious = AllocationProblem.of(
            cluster, models, profiles, planning.at_quantile(QUANTILE), sampled, requirements
        )
        test = AllocationProblem.of(cluster, models, profiles, testing, held, requirements)
        for arm in ARMS:
            started = time.perf_counter()
            replicas, expected, gap = _allocate(arm, cautious if arm == "planned_robust" else problem)
            plan_s = time.perf_counter() - started
            points = [
                realised(test, replicas, case.test, held.ravel(), share / BUDGET_SHARE * budget_usd)
                for share in BUDGETS
            ]
            free = realised(test, replicas, case.test, held.ravel(), float("inf"))
            score = at_spend([*points, free], spend_usd)
            rows.append(
                Row(
                    data=name, seed=case.seed, n_gpus=n_gpus, arm=arm, score=score, unlimited_score=free.score,
                    refused=points[BUDGETS.index(BUDGET_SHARE)].refused,
                    gpus_used=sum(r.gpus * n for r, n in replicas.items()), expected=expected, plan_s=plan_s, gap=gap,
                    replicas={str(r): n for r, n in sorted(replicas.items())},
                )
            )  # fmt: skip
            console.print(f"{name} seed {case.seed} {n_gpus} GPUs {arm}: {score:.4f}", highlight=False)
    return rows


def _allocate(arm: str, problem: AllocationProblem) -> tuple[Counter[ReplicaType], float | None, float | None]:
    """Replicas, and for planned arms the promised success and the gap."""
    if arm in ("planned", "planned_robust"):
        return _planned(problem)
    make = {"uniform": uniform, "proportional": proportional, "greedy": greedy}[arm]
    return make(problem), None, None


def _planned(problem: AllocationProblem) -> tuple[Counter[ReplicaType], float | None, float | None]:
    """Where the GPUs cannot serve the whole rate with room to spare, the plan for the highest rate that they can."""
    rate = problem.rate_per_s
    for part in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        try:
            served = replace(problem, rate_per_s=part * rate)
            found = trim(served, optimise(served, gap=GAP, time_limit_s=TIME_LIMIT_S))
        except (InfeasibleError, DeadlineError):
            continue
        return found.replicas, found.quality, found.gap
    raise InfeasibleError("Not even a tenth of the rate can be served.")


def _rate_per_s(
    table: OutcomesTable, case: Case, models: tuple[ModelSpec, ...], profiles: tuple[Profile, ...]
) -> float:
    """So that the best single model alone would take BEST_ALONE_GPUS at the planner's utilisation."""
    planning, _ = workloads(table, case, models, 1.0)
    batch = np.arange(len(planning))[None, :]
    problem = AllocationProblem.of(_cluster(max(GPUS)), models, profiles, planning, batch)
    tokens = float(problem.tokens[:, case.best].mean())
    fastest = max(problem.profile_of[r].tokens_per_s / r.gpus for r in problem.replicas_of(case.best))
    return BEST_ALONE_GPUS * fastest * problem.requirements.target_utilisation / tokens
