"""The plan of a whole job against trying all choices, and what it says where there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from apportion.router.assignment import Mip, RobustMip, assign, warm_up
from apportion.router.jobs.planning.least import least_seconds, least_usd
from apportion.router.jobs.planning.options import PlanOptions
from apportion.router.jobs.planning.plan import JobPlan, as_far_as_money_goes, plan_job, replan_job
from apportion.router.jobs.planning.shortfall import Shortfall
from apportion.router.jobs.planning.workload import JobLimit, Means, Workload
from tests.router.assignment.instances import every_choice

QUICK = PlanOptions(strategy=Mip(time_limit_s=1.0))
SURE = PlanOptions(strategy=RobustMip(kind="cost", confidence=0.99))


@pytest.fixture(scope="module", autouse=True)
def solvers_loaded() -> None:
    warm_up()


def job(seed: int, n: int, m: int, *, masked: bool = False, by_model: bool = False) -> Workload:
    """Rows of which the better models cost more; with `masked` some models may not answer some rows.

    by_model: whether answers differ in length between models.
    """
    rng = np.random.default_rng(seed)
    quality = np.sort(rng.uniform(0.3, 0.8, m)) + rng.normal(0, 0.1, (n, m))
    tokens = np.ceil(rng.lognormal(4, 0.8, n))
    cost = tokens[:, None] * np.geomspace(1, 20, m) * 1e-6
    if by_model:
        tokens = np.ceil(tokens[:, None] * rng.lognormal(0, 0.7, (n, m)))
    allowed = rng.random((n, m)) < 0.7 if masked else None
    if allowed is not None:
        allowed[:, 0] |= ~allowed.any(axis=1)
    return Workload(np.clip(quality, 0, 1), cost, tokens, allowed, cost * 0.3)


class Tried:
    """Value, cost and time of every choice of a small job."""

    def __init__(self, workload: Workload, speed: np.ndarray) -> None:
        n, m = workload.success.shape
        choices = every_choice(n, m)
        choices = choices[workload.may[np.arange(n), choices].all(axis=1)]
        rows = np.arange(n)
        self.value = workload.success[rows, choices].sum(axis=1)
        self.usd = workload.cost_usd[rows, choices].sum(axis=1)
        tokens, engine = workload.lengths()[rows, choices], workload.engine_of[choices]
        self.seconds = np.max([((engine == e) * tokens).sum(axis=1) / speed[e] for e in range(len(speed))], axis=0)

    def keeps(self, usd: float, seconds: float) -> np.ndarray:
        return np.asarray((self.usd <= usd * (1 + 1e-9)) & (self.seconds <= seconds * (1 + 1e-9)))


@pytest.mark.parametrize(
    ("masked", "by_model", "engines", "seeds"),
    [
        (False, False, None, 12),
        (True, False, None, 12),
        (True, True, None, 12),
        (False, True, (0, 0, 0), 12),
        (True, True, (0, 1, 0), 24),
        (True, False, (1, 0, 0), 12),
    ],
)
def test_a_plan_is_the_best_of_all_and_what_would_do_is_the_least(
    masked: bool, by_model: bool, engines: tuple[int, ...] | None, seeds: int
) -> None:
    speed = np.array([40.0, 25.0, 30.0])[: 3 if engines is None else max(engines) + 1]
    kinds: dict[str, int] = {}
    for seed in range(seeds):
        workload = job(seed, 6, 3, masked=masked, by_model=by_model)
        workload = replace(workload, row_of_column=None if engines is None else np.array(engines))
        tried = Tried(workload, speed)
        rng = np.random.default_rng(seed)
        some_usd, some_seconds = (np.quantile(of, rng.choice([0.0, 0.02, 0.3])) for of in (tried.usd, tried.seconds))
        usd = tried.usd.min() * 0.9 if seed % 4 in (1, 3) else some_usd
        seconds = tried.seconds.min() * 0.9 if seed % 4 in (2, 3) else some_seconds
        found = plan_job(workload, Means(usd, seconds, speed))
        keeps = tried.keeps(usd, seconds)
        if isinstance(found, JobPlan):
            assert found.objective == pytest.approx(tried.value[keeps].max(), rel=2e-4)
            assert found.bound >= tried.value[keeps].max() - 1e-9
            assert found.planned_usd <= usd * (1 + 1e-9)
            assert found.seconds is not None
            assert found.seconds <= seconds
            kinds["plan"] = kinds.get("plan", 0) + 1
            continue
        kinds[found.missing] = kinds.get(found.missing, 0) + 1
        assert not keeps.any()
        in_time, paid = tried.seconds <= seconds, tried.usd <= usd * (1 + 1e-9)
        check(found.usd, tried.usd[in_time])
        # Tokens are whole: a second more may be needed for the last one.
        check(found.seconds, tried.seconds[paid], rounding=1 / speed.min())
        if found.together is not None:
            assert tried.keeps(*found.together).any()
    assert {"plan", "budget", "deadline", "both"} <= set(kinds), kinds


def check(found: object, tried: np.ndarray, rounding: float = 0.0) -> None:
    if found is None:
        assert not tried.size
        return
    least, bound = found.least, found.bound  # type: ignore[attr-defined]
    assert bound <= tried.min() * (1 + 1e-9)
    assert tried.min() * (1 - 1e-9) <= least <= tried.min() * 1.002 + rounding


def test_what_is_said_to_do_does() -> None:
    """At a size where no choice can be tried: planning with it gives a plan, with a little less it does not."""
    workload, speed = job(1, 400, 4), np.full(4, 300.0)
    cheapest = float(workload.cost_usd[:, 0].sum())
    fastest = float(workload.lengths()[:, 0].sum()) / speed.sum()
    short = plan_job(workload, Means(cheapest * 1.2, fastest * 1.2, speed), QUICK)
    assert isinstance(short, Shortfall)
    assert short.usd is not None
    assert short.seconds is not None
    assert isinstance(plan_job(workload, Means(short.usd.least, fastest * 1.2, speed), QUICK), JobPlan)
    assert isinstance(plan_job(workload, Means(cheapest * 1.2, short.seconds.least, speed), QUICK), JobPlan)
    assert isinstance(plan_job(workload, Means(short.usd.bound * 0.999, fastest * 1.2, speed), QUICK), Shortfall)
    assert isinstance(plan_job(workload, Means(cheapest * 1.2, short.seconds.bound * 0.999, speed), QUICK), Shortfall)
    assert short.usd.least <= short.usd.bound * 1.005
    assert short.seconds.least <= short.seconds.bound * 1.01
    assert f"{short.usd.least:.6g} USD" in short.message


def test_models_that_share_engines_are_planned_as_highs_plans_them_and_least_amounts_are_the_relaxations() -> None:
    """At a size where no choice can be tried: the plain rows, one for each engine's time."""
    speed, kinds = np.array([60.0, 35.0]), {"plan": 0, "none": 0}
    for seed in range(50):
        rng = np.random.default_rng([5, seed])
        workload = job(seed, 12, 5, masked=seed % 2 == 0, by_model=True)
        workload = replace(workload, row_of_column=np.array([0, 1, 0, 1, 1]))
        fastest = highs(workload, speed, "seconds")
        seconds = fastest * rng.uniform(0.98, 1.8)
        cheapest = highs(workload, speed, "usd", seconds=seconds)
        usd = rng.uniform(0.9, 2.0) * (cheapest if math.isfinite(cheapest) else float(workload.cost_usd.min()))
        posed = Means(usd, seconds, speed).posed(workload)
        for found, relaxed in (
            (least_seconds(replace(posed.problem, budget_usd=math.inf), speed), fastest),
            (least_seconds(posed.problem, speed), highs(workload, speed, "seconds", usd=usd)),
            (least_usd(posed.problem, speed, seconds), cheapest),
        ):
            assert found.bound <= relaxed * (1 + 1e-7)
            assert found.amount == pytest.approx(relaxed, rel=3e-5)
        best = -highs(workload, speed, "failure", usd=usd, seconds=seconds, whole=True)
        kinds["plan" if math.isfinite(best) else "none"] += 1
        if not math.isfinite(best):
            assert assign(posed.problem, QUICK.strategy).infeasibility is not None
            continue
        plan = plan_job(workload, Means(usd, seconds, speed), QUICK)
        assert isinstance(plan, JobPlan)
        assert plan.objective == pytest.approx(best, rel=2e-4)
        assert plan.bound >= best * (1 - 1e-6)
        assert plan.seconds is not None
        assert plan.seconds <= seconds
    assert min(kinds.values()) >= 5, kinds


def highs(
    workload: Workload,
    speed: np.ndarray,
    least: str,
    *,
    usd: float = math.inf,
    seconds: float = math.inf,
    whole: bool = False,
) -> float:
    """The least "usd", "seconds" or "failure" (success times -1) of choices or mixtures of them; inf: there is none."""
    n, m = workload.success.shape
    # USD of the dearest pair, so that no row has tiny numbers.
    unit, one = float(workload.cost_usd.max()), np.ones(n * m)
    cost, tokens = workload.cost_usd.ravel() / unit, workload.lengths().ravel()
    value = {"usd": cost, "seconds": 0 * one, "failure": -workload.success.ravel()}[least]
    rows = [LinearConstraint(np.column_stack([np.kron(np.eye(n), np.ones(m)), np.zeros(n)]), 1, 1)]
    if math.isfinite(usd):
        rows.append(LinearConstraint(np.append(cost, 0)[None, :], ub=usd / unit))
    for engine, of_engine in enumerate(speed.tolist()):
        its = np.tile(workload.engine_of, n) == engine
        rows.append(LinearConstraint(np.append(tokens * its / of_engine, -1.0)[None, :], ub=0.0))
    found = milp(
        np.append(value, float(least == "seconds")), integrality=np.append(one * whole, 0), constraints=rows,
        bounds=Bounds(0, np.append(workload.may.ravel().astype(float), seconds)), options={"mip_rel_gap": 1e-6},
    )  # fmt: skip
    return math.inf if found.x is None else float(found.fun) * (unit if least == "usd" else 1.0)


def test_a_time_between_the_proved_least_and_a_mixtures_has_a_least_amount_of_money() -> None:
    workload, speed = job(56, 40, 3, by_model=True), np.array([40.0, 25.0, 30.0])
    problem = Means(math.inf, 1.0, speed).posed(workload).problem
    fastest = least_seconds(problem, speed)
    assert fastest.bound < fastest.amount
    between = least_usd(problem, speed, (fastest.bound + fastest.amount) / 2)
    assert between.bound <= between.amount < math.inf


def test_without_a_deadline_lengths_are_not_needed() -> None:
    workload = replace(job(2, 50, 3), tokens=None)
    cheapest = float(workload.cost_usd.min(axis=1).sum())
    plan = plan_job(workload, Means(cheapest * 2))
    assert isinstance(plan, JobPlan)
    assert plan.seconds is None
    short = plan_job(workload, Means(cheapest * 0.9))
    assert isinstance(short, Shortfall)
    assert short.missing == "budget"
    assert short.usd is not None
    assert short.usd.least == pytest.approx(cheapest, rel=2e-4)
    assert short.seconds is None


def test_best_effort_leaves_out_as_few_as_possible_and_says_whom() -> None:
    workload, speed = job(3, 6, 3), np.array([40.0, 25.0, 30.0])
    tried = Tried(workload, speed)
    seconds = float(tried.seconds.min()) * 0.8
    plan = plan_job(workload, Means(math.inf, seconds, speed), PlanOptions(best_effort=True))
    assert isinstance(plan, JobPlan)
    assert len(plan.left_out) == 1
    assert plan.seconds is not None
    assert plan.seconds <= seconds
    assert tried.seconds.min() > seconds


def test_slots_are_answers_of_a_model() -> None:
    workload = replace(job(9, 40, 3), answers=np.full(40, 2))
    plan = plan_job(workload, Means(slots=np.array([100, 10, 20])))
    assert isinstance(plan, JobPlan)
    assert (np.bincount(plan.model_of_row, minlength=3) * 2 <= [100, 10, 20]).all()
    short = plan_job(workload, Means(slots=np.array([10, 10, 20])))
    assert isinstance(short, Shortfall)
    assert short.missing == "slots"
    assert "40 more" in short.message


def test_rows_that_no_model_may_answer_are_counted_or_left_out() -> None:
    workload = job(4, 20, 3)
    allowed = np.ones((20, 3), np.bool_)
    allowed[[3, 7]] = False
    workload = replace(workload, allowed=allowed)
    short = plan_job(workload, Means())
    assert isinstance(short, Shortfall)
    assert (short.missing, short.rows) == ("models", 2)
    plan = plan_job(workload, Means(), PlanOptions(best_effort=True))
    assert isinstance(plan, JobPlan)
    assert plan.left_out.tolist() == [3, 7]


def test_a_model_that_is_gone_answers_nothing() -> None:
    workload = job(5, 60, 3)
    plan = plan_job(workload, Means(math.inf, 1e5, np.array([50.0, 50.0, 0.0])))
    assert isinstance(plan, JobPlan)
    assert set(plan.model_of_row.tolist()) == {0, 1}


def test_models_with_longer_answers_get_less_of_the_deadline() -> None:
    """Lengths of each model by itself: the plan's own time stays near the deadline that it was made for."""
    workload = job(6, 4000, 3)
    lengths = workload.lengths() * np.array([0.5, 1.0, 2.0])
    workload = replace(workload, tokens=np.ceil(lengths))
    speed = np.full(3, 1000.0)
    seconds = float(workload.lengths().min(axis=1).sum()) / 1000 * 0.8
    plan = plan_job(workload, Means(math.inf, seconds, speed))
    assert isinstance(plan, JobPlan)
    assert plan.seconds is not None
    assert plan.seconds == pytest.approx(seconds, rel=0.03)


def test_a_budget_with_confidence_keeps_a_reserve() -> None:
    workload = job(7, 300, 3)
    budget = float(workload.cost_usd[:, 0].sum()) * 3
    sure = plan_job(workload, Means(budget), SURE)
    assert isinstance(sure, JobPlan)
    std = np.asarray(workload.cost_std_usd)[np.arange(300), sure.model_of_row]
    assert sure.planned_usd + 2.32 * math.sqrt(np.square(std).sum()) <= budget
    short = plan_job(workload, Means(float(workload.cost_usd[:, 0].sum()) * 1.001), SURE)
    assert isinstance(short, Shortfall)
    assert short.usd is not None
    assert isinstance(plan_job(workload, Means(short.usd.least), SURE), JobPlan)


def test_replanning_keeps_what_is_done_and_moves_the_rest_to_the_money_that_is_left() -> None:
    workload = job(8, 200, 3)
    budget = float(workload.cost_usd[:, 0].sum()) * 4
    before = plan_job(workload, Means(budget))
    assert isinstance(before, JobPlan)
    pending = np.arange(200) >= 100
    left = float(workload.cost_usd[pending, 0].sum()) * 1.5  # answers were dearer than expected
    after = replan_job(workload, before, pending, Means(left))
    assert isinstance(after, JobPlan)
    assert after.model_of_row[:100].tolist() == before.model_of_row[:100].tolist()
    moved = workload.cost_usd[np.arange(200), after.model_of_row][pending].sum()
    assert moved <= left * (1 + 1e-9)
    assert moved == pytest.approx(after.planned_usd)
    assert isinstance(replan_job(workload, before, pending, Means(0.0)), Shortfall)


def test_a_job_that_has_begun_gives_no_row_up_for_want_of_time() -> None:
    workload, speed = job(10, 60, 3), np.full(3, 30.0)
    budget = float(workload.cost_usd[:, 0].sum()) * 2
    plan = plan_job(workload, Means(budget, 0.0, speed), PlanOptions(best_effort=True))
    assert isinstance(plan, JobPlan)
    assert len(plan.left_out) == 60
    all_the_same = as_far_as_money_goes(workload, plan, budget)
    assert not len(all_the_same.left_out)
    assert all_the_same.planned_usd == pytest.approx(workload.cost_usd[:, 0].sum())
    poor = as_far_as_money_goes(workload, plan, budget / 4)
    assert 0 < len(poor.left_out) < 60
    assert poor.planned_usd <= budget / 4


def test_a_job_without_rows_is_done() -> None:
    workload = Workload(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    plan = plan_job(workload, Means(1.0, 10.0, np.ones(2)))
    assert isinstance(plan, JobPlan)
    assert plan.seconds == 0.0


@pytest.mark.parametrize("short", [1e-12, 1e-10, 1e-8])
def test_a_budget_that_is_short_by_a_rounding_leaves_out_a_row(short: float) -> None:
    workload = Workload(np.full((2, 1), 0.5), np.full((2, 1), 2e-5), np.full((2, 1), 10.0), np.ones((2, 1), bool))
    means = Means(4e-5 * (1 - short), 3600.0, np.array([500.0]))
    plan = plan_job(workload, means, PlanOptions(best_effort=True))
    assert isinstance(plan, JobPlan)
    assert (plan.model_of_row >= 0).sum() >= 1
    assert plan.planned_usd <= means.budget_usd


def test_variants_of_a_model_share_its_slots() -> None:
    workload = replace(job(3, 6, 3), row_of_column=np.array([1, 0, 0]))
    plan = plan_job(workload, Means(slots=np.array([2, 5])), QUICK)
    assert isinstance(plan, JobPlan)
    choices = every_choice(6, 3)
    choices = choices[(choices > 0).sum(axis=1) <= 2]
    best = workload.success[np.arange(6), choices].sum(axis=1).max()
    assert (plan.model_of_row > 0).sum() <= 2
    assert plan.objective == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_with_limits_is_the_best_of_all_choices_that_keep_them(seed: int) -> None:
    workload = job(seed, 5, 3, by_model=bool(seed % 2))
    tokens = workload.lengths().sum() / 15
    limits = (
        JobLimit("rows", "requests", 2.0, (1, 2)),
        JobLimit("words", "tokens", tokens, (2,)),
        JobLimit("usd", "cost_usd", 0.5 * float(workload.cost_usd.max(axis=1).sum()), (0, 1, 2)),
    )
    rows = [limit.row(workload) for limit in limits]
    every = np.arange(5)
    kept = [
        float(workload.success[every, model].sum())
        for model in every_choice(5, 3)
        if all(row.use[every, model].sum() <= row.at_most for row in rows)
    ]
    plan = plan_job(workload, Means(limits=limits), QUICK)
    assert isinstance(plan, JobPlan)
    assert plan.objective == pytest.approx(max(kept), rel=1e-3)
    assert all(row.use[every, plan.model_of_row].sum() <= row.at_most * (1 + 1e-9) for row in rows)
    none = plan_job(workload, Means(limits=(JobLimit("rows", "requests", 4.0, (0, 1, 2)),)), QUICK)
    assert isinstance(none, Shortfall)
    assert (none.missing, none.message) == ("limits", "limits: rows is short by 1; raise it, or send fewer requests")
