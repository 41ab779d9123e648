"""What an allocation really scores on held-out requests, and at which spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from allocation.assess import best_shares
from allocation.models import ModelSpec
from allocation.problem import AllocationProblem
from allocation.replica import ReplicaType
from allocation.workload import FloatArray, IntArray, Workload
from router.evaluation.case import Case, Sample, split_rows
from router.prediction.outcomes import OutcomesTable
from router.prices import price_arrays


@dataclass(frozen=True)
class Realised:
    """Means over all held-out requests: recorded score (0 where refused), recorded cost in USD, share refused."""

    score: float
    cost_usd: float
    refused: float


def workloads(
    table: OutcomesTable, case: Case, specs: tuple[ModelSpec, ...], rate_per_s: float
) -> tuple[Workload, Workload]:
    """Predicted workloads of the validation and of the test requests; both are held out from training."""
    _, validation, test = split_rows(len(table), case.seed)
    return (
        _workload(table.subset(validation), case.validation, specs, rate_per_s),
        _workload(table.subset(test), case.test, specs, rate_per_s),
    )


def realised(
    problem: AllocationProblem, replicas: Mapping[ReplicaType, int], sample: Sample, rows: IntArray, budget_usd: float
) -> Realised:
    """Assigns by what is predicted, within the mean budget, and looks up what happened. rows: of the sample."""
    x = best_shares(problem.under(replace(problem.requirements, budget_usd=budget_usd)), replicas)
    return Realised(
        score=float((sample.score[rows] * x).sum(axis=1).mean()),
        cost_usd=float((sample.paid_usd[rows] * x).sum(axis=1).mean()),
        refused=float(max(0.0, 1 - x.sum(axis=1).mean())),
    )


def at_spend(points: list[Realised], spend_usd: float) -> float:
    """Score at a realised spend: linear between points; beyond the dearest its score, below the cheapest NaN."""
    curve = sorted(points, key=lambda p: p.cost_usd)
    costs, scores = np.array([p.cost_usd for p in curve]), np.array([p.score for p in curve])
    return float(np.interp(spend_usd, costs, scores)) if spend_usd >= costs[0] else float("nan")


def _workload(table: OutcomesTable, sample: Sample, specs: tuple[ModelSpec, ...], rate_per_s: float) -> Workload:
    usd_per_input, usd_per_output = price_arrays(spec.price for spec in specs)
    # The sample holds the expected cost of predicted lengths, which gives the lengths back.
    output_tokens: FloatArray = np.maximum((sample.cost_usd - table.input_tokens * usd_per_input) / usd_per_output, 1.0)
    return Workload(
        models=table.models,
        success=sample.success,
        cost_usd=sample.cost_usd,
        input_tokens=table.input_tokens,
        output_tokens=output_tokens,
        rate_per_s=rate_per_s,
        success_std=sample.success_std,
        success_samples=sample.success_samples,
    )
