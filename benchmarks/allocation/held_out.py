"""What an allocation really scores on held-out requests, and at which spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from apportion.allocation.assess import best_shares
from apportion.allocation.models import ModelSpec
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.replica import ReplicaType
from apportion.allocation.workload import Workload
from apportion.router.arrays import FloatArray, IntArray
from apportion.router.evaluation.case import Case, Sample
from apportion.router.evaluation.curve import Curve
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import price_arrays


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
    _, validation, test = table.split_rows(case.seed)
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


def curve_of(points: list[Realised]) -> Curve:
    """Score against realised spend."""
    return Curve.through(np.array([p.cost_usd for p in points]), np.array([p.score for p in points]))


def scores_at_one_spend(one: Curve, other: Curve, spend_usd: float) -> tuple[float, float, float]:
    """Scores of both, and the spend in USD they are read at: `spend_usd`, or the most that both can spend if less.

    A score is NaN where its curve begins above that spend.
    """
    spend_usd = min(spend_usd, float(one.cost_usd[-1]), float(other.cost_usd[-1]))
    return float(one.at(np.array(spend_usd))), float(other.at(np.array(spend_usd))), spend_usd


def _workload(table: OutcomesTable, sample: Sample, specs: tuple[ModelSpec, ...], rate_per_s: float) -> Workload:
    usd_per_input, usd_per_output = price_arrays(spec.price for spec in specs)
    # The sample holds the expected cost of predicted lengths, which gives the lengths back.
    cost_usd = sample.estimates.cost_usd
    lengths: FloatArray = np.maximum((cost_usd - table.input_tokens * usd_per_input) / usd_per_output, 1.0)
    estimates = replace(sample.estimates, input_tokens=table.input_tokens, output_tokens=lengths)
    return Workload(models=table.models, estimates=estimates, rate_per_s=rate_per_s)
