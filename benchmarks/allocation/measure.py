"""Planned, uniform, proportional and greedy allocations of the same GPUs, scarce to plenty, for one fitted case."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.optimise import Optimum, optimise
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.profile import SHARES, TENSOR_PARALLEL, Typical, compute_profiles
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.trim import trim
from apportion.router.arrays import IntArray
from apportion.router.errors import DeadlineError, InfeasibleError
from apportion.router.evaluation.case import Case
from apportion.router.outcomes.table import OutcomesTable
from benchmarks.allocation.baselines import greedy, proportional, uniform
from benchmarks.allocation.held_out import curve_of, realised, scores_at_one_spend, workloads
from benchmarks.allocation.needs import needs_of, specs
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.numbers import Record

GPU = "A100-80GB"
NODE_GPUS = 4
# The rate at which the best single model alone would take so many GPUs.
BEST_ALONE_GPUS = 16
BUDGET_SHARE = 0.5
# Budgets beside that one, so that every arm can be read at the spend of one whose few GPUs allow cheap answers alone.
BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
QUANTILE = 0.25
GAP = 5e-3
ARMS = ("planned", "planned_robust", "greedy", "proportional", "uniform")


@dataclass(frozen=True)
class Size:
    """n_gpus: of each cluster. plan_batches, most_test_batches: of batch_size requests, to plan for and to try on."""

    n_gpus: tuple[int, ...]
    batch_size: int
    plan_batches: int
    most_test_batches: int
    time_limit_s: float


FULL = Size((4, 8, 16, 32), 64, 5, 16, 120.0)
SMOKE = Size((4,), 16, 1, 2, 10.0)


@dataclass(frozen=True)
class Row:
    """One arm with one number of GPUs; spends are shares of what the best single model costs on the same requests.

    score, spend: at a realised spend of BUDGET_SHARE, or the most that the arm can spend if that is less. lead: of the
    planned arm's score over this one's at equal_spend, which is BUDGET_SHARE or the most that both can spend; NaN where
    one of them cannot spend as little. unlimited_score, unlimited_spend: without a budget. refused: share of requests
    without an answer at the planned budget. expected: what the planner promised, gap: of its search (planned arms).
    """

    n_gpus: int
    arm: str
    score: float
    spend: float
    lead: float
    equal_spend: float
    unlimited_score: float
    unlimited_spend: float
    refused: float
    gpus_used: float
    expected: float | None
    plan_s: float
    gap: float | None
    replicas: dict[str, int]


@dataclass(frozen=True)
class Allocation:
    """What an arm decided: replicas, and for planned arms the promised success and the gap of the search."""

    replicas: Counter[ReplicaType]
    expected: float | None = None
    gap: float | None = None


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Every arm at every number of GPUs."""
    size = SMOKE if smoke else FULL
    table, _ = dataset.prepared()
    with TemporaryDirectory() as folder:
        prices = dict(zip(table.models, table.price_list(), strict=True))
        models = specs(needs_of(dataset.name, table), prices, Path(folder))
        profiles = profiles_of(models, table, size.n_gpus)
    planning, testing = workloads(table, case, models, rate_for(case.best, table, case, models, profiles))
    requirements = Requirements(
        budget_usd=BUDGET_SHARE * float(case.validation.estimates.cost_usd[:, case.best].mean())
    )
    sampled = planning.batches(size.batch_size, size.plan_batches, case.seed)
    test_batches = min(size.most_test_batches, len(testing) // size.batch_size)
    held = testing.batches(size.batch_size, test_batches, case.seed)
    rows = []
    for n_gpus in size.n_gpus:
        problem, cautious, test = (
            AllocationProblem.of(cluster_of(n_gpus), models, profiles, workload, batches, requirements)
            for workload, batches in ((planning, sampled), (planning.at_quantile(QUANTILE), sampled), (testing, held))
        )
        found = {}
        for arm in ARMS:
            started = time.perf_counter()
            allocated = _allocate(arm, cautious if arm == "planned_robust" else problem, size.time_limit_s)
            found[arm] = allocated, time.perf_counter() - started
        rows += _rows(test, case, held.ravel(), found)
    return [asdict(row) for row in rows]


def _rows(test: AllocationProblem, case: Case, held: IntArray, found: dict[str, tuple[Allocation, float]]) -> list[Row]:
    """Every arm on the held-out requests, and beside the planned one at equal spend. held: rows of the test sample."""
    best_usd = float(case.test.paid_usd[held, case.best].mean())
    points = {
        arm: {
            share: realised(test, given.replicas, case.test, held, share / BUDGET_SHARE * test.requirements.budget_usd)
            for share in (*BUDGETS, math.inf)
        }
        for arm, (given, _) in found.items()
    }
    curves = {arm: curve_of(list(own.values())) for arm, own in points.items()}
    rows = []
    for arm, (given, plan_s) in found.items():
        free = points[arm][math.inf]
        score, _, spend_usd = scores_at_one_spend(curves[arm], curves[arm], BUDGET_SHARE * best_usd)
        planned, own, equal_usd = scores_at_one_spend(curves["planned"], curves[arm], BUDGET_SHARE * best_usd)
        rows.append(
            Row(
                n_gpus=test.cluster.n_gpus, arm=arm, score=score, spend=spend_usd / best_usd, lead=planned - own,
                equal_spend=equal_usd / best_usd, unlimited_score=free.score,
                unlimited_spend=free.cost_usd / best_usd, refused=points[arm][BUDGET_SHARE].refused,
                gpus_used=sum(r.gpus * n for r, n in given.replicas.items()), expected=given.expected, plan_s=plan_s,
                gap=given.gap, replicas={str(r): n for r, n in sorted(given.replicas.items())},
            )
        )  # fmt: skip
    return rows


def profiles_of(models: tuple[ModelSpec, ...], table: OutcomesTable, n_gpus: tuple[int, ...]) -> tuple[Profile, ...]:
    """Computed ones of every share and number of GPUs of these clusters."""
    typical = Typical(int(table.input_tokens.mean()), int(table.output_tokens.mean()), 1024)
    return compute_profiles(models, cluster_of(max(n_gpus)), typical, SHARES, TENSOR_PARALLEL)


def cluster_of(n_gpus: int) -> Cluster:
    """So many GPUs in nodes of NODE_GPUS."""
    nodes = tuple(Node(f"node-{i}", GPU, min(NODE_GPUS, n_gpus)) for i in range(max(1, n_gpus // NODE_GPUS)))
    return Cluster(nodes, {GPU: GPU_TYPES[GPU]})


def _allocate(arm: str, problem: AllocationProblem, time_limit_s: float) -> Allocation:
    if arm in ("planned", "planned_robust"):
        return _planned(problem, time_limit_s)
    make = {"uniform": uniform, "proportional": proportional, "greedy": greedy}[arm]
    return Allocation(make(problem))


def _planned(problem: AllocationProblem, time_limit_s: float) -> Allocation:
    found = plan_for_most(problem, time_limit_s)
    return Allocation(found.replicas, found.quality, found.gap)


def plan_for_most(problem: AllocationProblem, time_limit_s: float) -> Optimum:
    """The plan; where there is none for the whole rate with room to spare, that for the most of it."""
    rate = problem.rate_per_s
    for part in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        try:
            served = replace(problem, rate_per_s=part * rate)
            return trim(served, optimise(served, gap=GAP, time_limit_s=time_limit_s))
        except (InfeasibleError, DeadlineError):
            continue
    raise InfeasibleError("not even a tenth of the rate can be served")


def rate_for(
    best: int, table: OutcomesTable, case: Case, models: tuple[ModelSpec, ...], profiles: tuple[Profile, ...]
) -> float:
    """Requests/s so that this model alone would take BEST_ALONE_GPUS at the planner's utilisation."""
    planning, _ = workloads(table, case, models, 1.0)
    batch = np.arange(len(planning))[None, :]
    problem = AllocationProblem.of(cluster_of(BEST_ALONE_GPUS), models, profiles, planning, batch)
    tokens = float(problem.tokens[:, best].mean())
    fastest = max(problem.profile_of[r].tokens_per_s / r.gpus for r in problem.replicas_of(best))
    return BEST_ALONE_GPUS * fastest * problem.requirements.target_utilisation / tokens
