"""What an allocation is worth on held-out requests, and how two are compared."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apportion.allocation.optimise import optimise
from apportion.allocation.problem import Requirements
from apportion.router.errors import InfeasibleError
from apportion.router.evaluation.case import Case, fit_case
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.request_features import request_features
from benchmarks.allocation.held_out import Realised, curve_of, realised, scores_at_one_spend, workloads
from benchmarks.allocation.measure import GAP, _planned
from benchmarks.allocation.needs import DATA_SETS, SIZES, needs_of, specs
from tests.allocation.instances import cluster, problem
from tests.samples import make_outcomes


@pytest.fixture(scope="module")
def table() -> OutcomesTable:
    return make_outcomes(200, seed=2)


@pytest.fixture(scope="module")
def case(table: OutcomesTable) -> Case:
    length = np.array([[len(prompt)] for prompt in table.prompts], np.float32)
    features = Features(np.hstack([np.cos(length / 12), np.sin(length / 12)]), length, request_features(table.prompts))
    return fit_case(table, features, "knn", KnnEstimator(20, members=4), seed=0)


def test_two_allocations_are_read_at_the_spend_of_the_thriftier() -> None:
    rich = curve_of([Realised(0.2, 1.0, 0.0), Realised(0.6, 5.0, 0.0)])
    poor = curve_of([Realised(0.3, 0.5, 0.0), Realised(0.5, 3.0, 0.0)])
    assert scores_at_one_spend(rich, poor, 9.0) == pytest.approx((0.4, 0.5, 3.0))
    assert scores_at_one_spend(poor, rich, 9.0) == pytest.approx((0.5, 0.4, 3.0))
    assert scores_at_one_spend(rich, poor, 2.0)[2] == 2.0


def test_an_allocation_that_cannot_spend_as_little_has_no_score() -> None:
    dear, cheap = curve_of([Realised(0.6, 5.0, 0.0)]), curve_of([Realised(0.5, 3.0, 0.0)])
    one, other, spend_usd = scores_at_one_spend(dear, cheap, 9.0)
    assert math.isnan(one)
    assert (other, spend_usd) == (0.5, 3.0)


def test_workloads_cost_what_was_predicted(table: OutcomesTable, case: Case, tmp_path: Path) -> None:
    models = specs(needs_of("other", table), dict(table.prices), tmp_path)
    by_name = {spec.name: spec for spec in models}
    planning, testing = workloads(table, case, tuple(by_name[name] for name in table.models), 3.0)
    assert (len(planning), len(testing)) == (len(case.validation), len(case.test))
    assert planning.rate_per_s == 3.0
    usd = np.array([[p.input_usd_per_million, p.output_usd_per_million] for p in table.prices.values()]) / 1e6
    expected = testing.estimates.input_tokens * usd[:, 0] + testing.estimates.output_tokens * usd[:, 1]
    assert (testing.estimates.output_tokens > 1).mean() > 0.9
    longer = testing.estimates.output_tokens > 1
    np.testing.assert_allclose(expected[longer], case.test.estimates.cost_usd[longer])


def test_requests_score_what_was_recorded(case: Case) -> None:
    """Of recorded outcomes that say 1 for every answer, what is missing are the refused requests."""
    given = problem(Requirements(budget_usd=math.inf), on=cluster(1, 4), size=40, count=1)
    sample = case.test
    whole = replace(sample, score=np.ones_like(sample.score))
    held = np.arange(40)
    plenty = Counter(dict.fromkeys(given.replicas, 50))
    found = realised(given, plenty, whole, held, math.inf)
    assert (found.score, found.refused) == pytest.approx((1.0, 0.0))
    assert sample.paid_usd.min(axis=1).mean() <= found.cost_usd <= sample.paid_usd.max(axis=1).mean()
    scarce = Counter({next(r for r in given.replicas if r.model == "large"): 1})
    some = realised(given, scarce, whole, held, math.inf)
    assert 0 < some.refused < 1
    assert some.score == pytest.approx(1 - some.refused)
    assert realised(given, plenty, whole, held, 0.3 * found.cost_usd).cost_usd < found.cost_usd


def test_where_the_rate_is_too_high_a_part_of_it_is_planned_for() -> None:
    beyond = problem(on=cluster(1, 2), rate_per_s=60.0)
    with pytest.raises(InfeasibleError):
        optimise(beyond)
    found = _planned(beyond, 20.0)
    assert 0 < sum(replica.gpus * n for replica, n in found.replicas.items()) <= 2
    assert found.gap is not None
    assert found.gap <= GAP
    with pytest.raises(InfeasibleError, match="not even a tenth"):
        _planned(problem(on=cluster(1, 2), rate_per_s=1e5), 20.0)


def test_models_of_other_tables_get_sizes_by_their_cost(table: OutcomesTable) -> None:
    needs = needs_of("other", table)
    cost = dict(zip(table.models, table.cost_usd.mean(axis=0), strict=True))
    assert list(needs) == sorted(table.models, key=lambda model: cost[model])
    order = [list(SIZES).index(size) for size in needs.values()]
    assert order == sorted(order)
    assert len(set(order)) == len(order)
    assert needs_of("mmlu_pro_cot", table) == DATA_SETS["mmlu_pro_cot"]
