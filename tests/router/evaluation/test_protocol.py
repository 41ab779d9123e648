"""The protocol on a small table whose outcomes follow from the features."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import warm_up
from apportion.router.errors import ConfigurationError, OutcomesTableError
from apportion.router.evaluation.arms import ARMS, dials
from apportion.router.evaluation.batches import Setting
from apportion.router.evaluation.case import Case, fit_case, usable
from apportion.router.evaluation.planners import PLANNERS, in_turn
from apportion.router.evaluation.protocol import BUDGET_FRACTIONS, Evaluation, evaluate
from apportion.router.evaluation.realised import curve_of
from apportion.router.evaluation.statistics import Summary, paired_difference, summarise_areas, summarise_rows
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.knn import KnnEstimator
from apportion.router.prediction.request_features import request_features
from apportion.router.prices import ModelPrice
from tests.paths import ROOT
from tests.samples import make_outcomes

SETTING = Setting(batch_size=50)


@pytest.fixture(scope="module")
def table() -> OutcomesTable:
    return make_outcomes(500, seed=1)


@pytest.fixture(scope="module")
def features(table: OutcomesTable) -> Features:
    """The length of the question, which decides who manages it, along a circle; and nothing else."""
    length = np.array([len(prompt) for prompt in table.prompts], np.float32)
    noise = np.random.default_rng(0).normal(0, 0.02, (len(length), 2))
    around = np.column_stack([np.cos(length / 12), np.sin(length / 12)]) + noise
    return Features(around.astype(np.float32), length[:, None], request_features(table.prompts))


@pytest.fixture(scope="module")
def case(table: OutcomesTable, features: Features) -> Case:
    warm_up()
    return fit_case(table, features, "knn", KnnEstimator(20, members=4), seed=0)


@pytest.fixture(scope="module")
def found(table: OutcomesTable, features: Features) -> Evaluation:
    arms = ("random_mixture", "per_query", "mip", "oracle")
    return evaluate(table, features, {"knn": KnnEstimator(20, members=4)}, arms=arms, seeds=2, setting=SETTING)


def test_splits_are_those_of_the_table(table: OutcomesTable) -> None:
    for seed in (0, 3):
        for rows, part in zip(table.split_rows(seed), table.split(seed), strict=True):
            assert table.subset(rows).queries["query_id"].tolist() == part.queries["query_id"].tolist()


def test_unusable_models_and_requests_are_left_out(table: OutcomesTable) -> None:
    scores = table.scores.copy()
    scores[:100, 0] = np.nan
    scores[:5, 1] = np.nan
    kept = usable(replace(table, scores=scores))
    assert kept.models == table.models[1:]
    assert len(kept) == len(table) - 5
    with pytest.raises(OutcomesTableError, match="models: only 1 have"):
        usable(replace(table, scores=np.where(np.arange(3) > 0, np.nan, table.scores)))


@pytest.mark.parametrize("arm", list(ARMS))
def test_an_arm_is_worth_what_its_choices_are(arm: str, case: Case) -> None:
    """Scores and costs lie between the worst and the best of every request; more spend is possible somewhere."""
    points = ARMS[arm](case, SETTING)
    low, high = case.test.paid_usd.min(axis=1).mean(), case.test.paid_usd.max(axis=1).mean()
    assert len(points) > 1
    for point in points:
        assert low - 1e-12 <= point.cost_usd <= high + 1e-12
        assert case.test.score.min(axis=1).mean() <= point.score <= case.oracle_score + 1e-12
    assert len({round(point.cost_usd, 12) for point in points}) > 1


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in ("oracle", "random_mixture")])
def test_no_arm_sees_the_outcomes_of_the_test_requests(arm: str, case: Case) -> None:
    """With other outcomes the choices stay, so the price paid per point moves with the factor of the costs."""
    hidden = replace(case.test, score=np.zeros_like(case.test.score), paid_usd=3 * case.test.paid_usd)
    seen = [point.cost_usd for point in ARMS[arm](case, SETTING)]
    blind = [point.cost_usd for point in ARMS[arm](replace(case, test=hidden), SETTING)]
    np.testing.assert_allclose(blind, 3 * np.array(seen))


def _made_free(table: OutcomesTable, model: int) -> OutcomesTable:
    cost_usd = table.cost_usd.copy()
    cost_usd[:, model] = 0.0
    return replace(table, cost_usd=cost_usd, prices={**table.prices, table.models[model]: ModelPrice(0, 0)})


def test_a_model_may_cost_nothing(table: OutcomesTable, features: Features) -> None:
    """A budget of every share then buys at least what the free model is worth."""
    estimators = {"knn": KnnEstimator(20, members=4)}
    found = evaluate(_made_free(table, 0), features, estimators, arms=["mip"], seeds=1, setting=SETTING)
    (free,) = (row for row in found.rows if row.arm == "single:small")
    assert free.cost_usd == 0
    scores = [row.score for row in found.rows if row.arm == "mip"]
    assert len(scores) == len(BUDGET_FRACTIONS)
    assert all(score is not None and score >= free.score for score in scores)
    with pytest.raises(OutcomesTableError, match="best single model, 'large', costs nothing"):
        evaluate(_made_free(table, 2), features, estimators, arms=["mip"], seeds=1)


@pytest.mark.parametrize("arm", ["mip", "greedy", "ndch_p", "robust_cost", "per_query_batch", "per_query_capped"])
def test_arms_keep_their_caps_in_expectation(arm: str, case: Case) -> None:
    """Where real costs are the expected ones, no batch passes a cap that its cheapest models keep."""
    exact = replace(case, test=replace(case.test, paid_usd=case.test.estimates.cost_usd))
    for point in ARMS[arm](exact, SETTING)[4:]:
        assert (point.batch_cost_usd <= point.batch_cap_usd * (1 + 1e-6)).all()


@pytest.mark.parametrize("arm", ["mip", "greedy", "price", "ndch_p", "per_query_batch"])
def test_caps_hold_where_slots_bind_too(arm: str, case: Case) -> None:
    """Requests that full models turn away may only move to models that the cap can pay for."""
    tight = Setting(batch_size=50, slots_share=0.4)
    cheapest = PLANNERS["greedy"](case, tight, 0.0)
    budget_usd = 1.2 * float(cheapest.batch_planned_usd.max()) / tight.batch_size
    found = PLANNERS[arm](case, tight, budget_usd)
    assert (found.batch_planned_usd <= found.batch_cap_usd * (1 + 1e-6)).all()
    assert PLANNERS[arm](case, tight, math.inf).batch_planned_usd.sum() > found.batch_cap_usd.sum()


def test_mip_expects_at_least_what_every_other_planner_expects(case: Case) -> None:
    """By the estimates themselves, at the same caps, no arm can plan better."""
    believed = replace(
        case, test=replace(case.test, score=case.test.estimates.success, paid_usd=case.test.estimates.cost_usd)
    )
    best = [p.score for p in ARMS["mip"](believed, SETTING)]
    for arm in ("greedy", "ndch", "ndch_p", "price", "per_query_batch"):
        other = [p.score for p in ARMS[arm](believed, SETTING)]
        feasible = dials(case) > np.sort(dials(case))[2]
        assert all(b >= o - 2e-3 for b, o, f in zip(best, other, feasible, strict=True) if f)


def test_slots_bind(case: Case) -> None:
    tight = Setting(batch_size=50, slots_share=0.4)
    loose_points, tight_points = (ARMS["mip"](case, setting)[-1] for setting in (SETTING, tight))
    assert tight_points.cost_usd < loose_points.cost_usd
    assert tight.slots(32, 3).tolist() == [13, 13, 13]
    assert Setting(slots_share=0.01).slots(30, 3).tolist() == [10, 10, 10]


def test_adversarial_batches_differ_in_cost(case: Case) -> None:
    order = np.concatenate(list(Setting(16, "adversarial").rows(case.test, 0)))
    assert sorted(order.tolist()) == list(range(len(case.test)))
    likeliest = case.test.estimates.success.argmax(axis=1)
    cost = case.test.estimates.cost_usd[np.arange(len(case.test)), likeliest][order]
    assert (np.diff(cost) <= 1e-15).all()
    with pytest.raises(ConfigurationError, match="batch_size >= 1"):
        Setting(0)


def test_rows_hold_every_arm_at_every_budget(found: Evaluation, table: OutcomesTable) -> None:
    rows = found.as_json()
    assert len(rows) == 2 * (3 + 4 * len(BUDGET_FRACTIONS))
    assert set(rows[0]) == {
        "seed", "arm", "estimator", "budget_fraction", "score", "cost_usd", "best_single_score",
        "best_single_cost_usd",
    }  # fmt: skip
    for row in found.rows:
        if not row.arm.startswith("single:") and row.score is not None:
            assert row.cost_usd <= row.budget_fraction * row.best_single_cost_usd * (1 + 1e-9)
    best = [r for r in found.rows if r.arm.startswith("single:") and r.score == r.best_single_score]
    assert {row.seed for row in best} == {0, 1}


def test_routing_beats_the_mixture_where_features_tell(found: Evaluation) -> None:
    areas = summarise_areas(found.measures)
    assert areas["knn", "mip"].mean > areas["knn", "random_mixture"].mean
    assert areas["knn", "oracle"].mean > areas["knn", "mip"].mean
    difference = paired_difference(found.measures, ("knn", "mip"), ("knn", "random_mixture"))
    assert difference.n == 2
    assert difference.mean == pytest.approx(areas["knn", "mip"].mean - areas["knn", "random_mixture"].mean)


def test_measures_count_what_passed_its_cap(found: Evaluation) -> None:
    by_arm = {m.arm: m for m in found.measures if m.seed == 0}
    assert 0 <= by_arm["mip"].over_cap <= 1
    assert by_arm["mip"].worst_cap_ratio > 0
    assert by_arm["per_query"].worst_cap_ratio > 1
    assert by_arm["oracle"].headroom > by_arm["mip"].headroom


def test_curves_of_an_arm_reach_its_points(case: Case) -> None:
    points = ARMS["mip"](case, SETTING)
    curve = curve_of(points)
    dearest = max(points, key=lambda point: point.cost_usd)
    assert curve.at(np.array(dearest.cost_usd)) == pytest.approx(dearest.score)


def test_summaries_are_means_and_intervals(found: Evaluation) -> None:
    summary = Summary.of([1.0, 2.0, 3.0])
    assert summary.mean == 2.0
    assert summary.half_width == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert np.isnan(Summary.of([1.0]).half_width)
    by_fraction = summarise_rows(found.rows)["knn", "mip"]
    assert list(by_fraction) == list(BUDGET_FRACTIONS)


def test_unknown_names_are_refused(table: OutcomesTable, features: Features) -> None:
    with pytest.raises(ConfigurationError, match="arm 'best' is unknown"):
        evaluate(table, features, {}, arms=["best"])


def test_the_page_runs_and_names_every_arm(table: OutcomesTable, features: Features) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(snippet, {"table": table, "features": features})
    assert all(f"`{arm}`" in page for arm in ARMS)


def test_first_come_first_served_is_what_one_by_one_gives() -> None:
    rng = np.random.default_rng(4)
    for n, m in ((1, 1), (30, 3), (200, 7)):
        worth, slots = rng.random((n, m)), np.full(m, -(-n // m) + 1)
        free, expected = slots.copy(), []
        for row in worth:
            j = int(np.where(free > 0, row, -np.inf).argmax())
            free[j] -= 1
            expected.append(j)
        assert in_turn(worth, slots).tolist() == expected


def test_one_price_for_all_caps_is_set_by_the_dearest_batch(case: Case) -> None:
    """It keeps every cap that costs are expected to allow, and so spends less than the cheapest way to spend them."""
    setting, budget = Setting(10, "adversarial"), float(dials(case)[8])
    capped, whole = (PLANNERS[arm](case, setting, budget) for arm in ("per_query_capped", "per_query"))
    ratio = capped.batch_planned_usd / capped.batch_cap_usd
    assert ratio.max() <= 1 + 1e-6
    assert ratio.min() < 0.9
    assert whole.batch_planned_usd.sum() > capped.batch_planned_usd.sum()
    assert whole.batch_planned_usd.sum() == pytest.approx(budget * len(case.test), rel=0.05)
