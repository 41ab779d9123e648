"""One plan for own GPUs and bought tokens (`joint`) beside GPUs alone and bought tokens alone, at the same USD an hour.

Open models may run on few GPUs (A100-80GB; one in use costs 1.5 USD an hour, an assumption); closed ones are bought by
the token. The budget is a share of what buying the best closed model for every request would cost. Each arm is planned
on predictions, then tried on held-out batches: requests are assigned by what is predicted, scored by what was recorded,
and bought answers cost what they cost. Requests without capacity or money score 0. Each arm is read at a total spend of
the budget, or the most that it can spend where that is less. Bought models have no limit, or each takes a third of the
requests a minute. What a model needs of a GPU is invented and stated in `benchmarks/allocation/needs.py`; the rate is
such that the best open model alone would take 16 GPUs. Estimator: the 40 nearest neighbours.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from apportion.allocation.assess import best_shares
from apportion.allocation.models import ModelSpec, Quota
from apportion.allocation.problem import HOUR_S, AllocationProblem, Requirements
from apportion.allocation.replica import ReplicaType
from apportion.allocation.trades import bill_of
from apportion.router.arrays import BoolArray, IntArray
from apportion.router.evaluation.case import Case, Sample
from apportion.router.evaluation.curve import Curve
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prices import ModelPrice
from benchmarks.allocation.held_out import workloads
from benchmarks.allocation.measure import BEST_ALONE_GPUS, GPU, cluster_of, plan_for_most, profiles_of, rate_for
from benchmarks.allocation.needs import CONTEXT_TOKENS, bought_of, needs_of, specs
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import Record, called, difference, distinct, over_seeds, shown, where
from benchmarks.experiments.report import table

TITLE = "Own GPUs and bought tokens in one plan"
# An assumption: about what a reserved A100 was rented for when the tables' token prices held.
GPU_USD_PER_HOUR = 1.5
# Of what buying the best closed model for every request would cost.
BUDGETS = (0.1, 0.25, 0.5)
QUOTAS: dict[str, float | None] = {"no limit": None, "a third each": 1 / 3}
# Times the money for tokens that a plan has: each arm is read where it really spends the budget.
AROUND = (0.7, 1.0, 1.3)
JOINT, OTHERS = "joint", ("GPUs alone", "bought alone")
ARMS = (JOINT, *OTHERS)
AT_ONCE = 10_000  # no provider is asked for fewer than a batch has
CODE = ("allocation", "benchmarks/allocation/held_out.py", "benchmarks/allocation/measure.py",
        "benchmarks/allocation/needs.py")  # fmt: skip


@dataclass(frozen=True)
class Size:
    """n_gpus: of each cluster. plan_batches, most_test_batches: of batch_size requests."""

    n_gpus: tuple[int, ...]
    budgets: tuple[float, ...]
    batch_size: int
    plan_batches: int
    most_test_batches: int
    time_limit_s: float


FULL = Size((4, 8), BUDGETS, 64, 5, 8, 300.0)
SMOKE = Size((4,), BUDGETS[-1:], 16, 1, 2, 10.0)


@dataclass(frozen=True)
class Row:
    """One arm under one budget, quota and number of GPUs. score: at a realised spend of the budget, or the most.

    spend: that, as a share of the budget. usd_per_hour: the budget. gpus_used, gpus_usd_per_hour: of the plan; bought:
    share of the held-out requests that bought models answer; refused: that nobody answers.
    """

    n_gpus: int
    quota: str
    budget: float
    arm: str
    score: float
    spend: float
    usd_per_hour: float
    gpus_used: int
    gpus_usd_per_hour: float
    bought: float
    refused: float


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Every arm under every budget, quota and number of GPUs."""
    size = SMOKE if smoke else FULL
    outcomes, _ = dataset.prepared()
    bought = bought_of(dataset.name, outcomes)
    needs = {name: need for name, need in needs_of(dataset.name, outcomes).items() if name not in bought}
    prices = dict(zip(outcomes.models, outcomes.price_list(), strict=True))
    with TemporaryDirectory() as folder:
        own = specs(needs, prices, Path(folder))
        profiles = profiles_of(own, outcomes, (max(size.n_gpus),))
    is_bought = np.array([name in bought for name in outcomes.models])
    everything = (*own, *(_bought(name, prices[name], None) for name in bought))
    best_own = int(np.where(is_bought, -np.inf, case.mean_score).argmax())
    best_bought = int(np.where(is_bought, case.mean_score, -np.inf).argmax())
    rate_per_s = rate_for(best_own, outcomes, case, everything, profiles)
    all_bought_usd = HOUR_S * rate_per_s * float(case.validation.estimates.cost_usd[:, best_bought].mean())
    planning, testing = workloads(outcomes, case, everything, rate_per_s)
    sampled = planning.batches(size.batch_size, size.plan_batches, case.seed)
    test_batches = min(size.most_test_batches, len(testing) // size.batch_size)
    held = testing.batches(size.batch_size, test_batches, case.seed)
    rows: list[Record] = []
    known: dict[tuple[Any, ...], Record] = {}
    for n_gpus in size.n_gpus:
        cluster = cluster_of(n_gpus).priced({GPU: GPU_USD_PER_HOUR})
        for quota, share in QUOTAS.items():
            per_minute = None if share is None else 60 * share * rate_per_s
            models = (*own, *(_bought(name, prices[name], per_minute) for name in bought))
            for budget in size.budgets:
                required = Requirements(budget_usd_per_hour=budget * all_bought_usd)
                problem, test = (
                    AllocationProblem.of(cluster, models, profiles, workload, batches, required)
                    for workload, batches in ((planning, sampled), (testing, held))
                )
                # What decides over an arm, and the models that it may use.
                arms = {
                    JOINT: ((n_gpus, quota), is_bought | True),
                    "GPUs alone": ((n_gpus,), ~is_bought),
                    "bought alone": ((quota,), is_bought),
                }
                for arm, (by, allowed) in arms.items():
                    key = (arm, budget, *by)
                    if key not in known:
                        known[key] = _made(_only(problem, allowed), _only(test, allowed), case.test, held.ravel(), size)
                    rows.append(asdict(Row(n_gpus, quota, budget, arm, **known[key])))
    return rows


def _bought(name: str, price: ModelPrice, requests_per_minute: float | None) -> ModelSpec:
    return ModelSpec(name, "", price, max_model_len=CONTEXT_TOKENS, quota=Quota(AT_ONCE, requests_per_minute))


def _only(problem: AllocationProblem, models: BoolArray) -> AllocationProblem:
    return replace(problem, allowed=problem.allowed & models)


def _made(problem: AllocationProblem, test: AllocationProblem, sample: Sample, held: IntArray, size: Size) -> Record:
    """Plans and tries: what a row says of an arm."""
    budget_usd = problem.requirements.budget_usd_per_hour
    replicas, gpus, gpus_usd = Counter[ReplicaType](), 0, 0.0
    if problem.allowed[:, ~problem.bought].any():
        found = plan_for_most(problem, size.time_limit_s)
        bill = bill_of(problem, found)
        replicas, gpus, gpus_usd = found.replicas, sum(c.used for c in bill.gpus), bill.gpus_usd_per_hour or 0.0
    around = (*AROUND, math.inf) if problem.allowed[:, problem.bought].any() else (1.0,)
    points = {times: _tried(test, replicas, gpus_usd, sample, held, times) for times in around}
    usd, scores = (np.array([point[name] for point in points.values()]) for name in ("usd", "score"))
    curve = Curve.through(usd, scores)
    spend_usd = min(budget_usd, float(curve.cost_usd[-1]))
    planned = points[1.0]
    return {
        "score": float(curve.at(np.array(spend_usd))), "spend": spend_usd / budget_usd, "usd_per_hour": budget_usd,
        "gpus_used": gpus, "gpus_usd_per_hour": gpus_usd, "bought": planned["bought"], "refused": planned["refused"],
    }  # fmt: skip


def _tried(
    test: AllocationProblem, replicas: Counter[ReplicaType], gpus_usd: float, sample: Sample, held: IntArray,
    times: float,
) -> dict[str, float]:  # fmt: skip
    """The held-out requests with so many times the money for tokens: recorded score, USD an hour, and who answers."""
    tokens_usd = test.requirements.budget_usd_per_hour - gpus_usd
    limit = gpus_usd + times * tokens_usd if tokens_usd > 0 else gpus_usd
    x = best_shares(test.under(replace(test.requirements, budget_usd_per_hour=limit)), replicas, gpus_usd)
    paid = (sample.paid_usd[held] * x)[:, test.bought].sum(axis=1).mean()
    return {
        "score": float((sample.score[held] * x).sum(axis=1).mean()),
        "usd": gpus_usd + HOUR_S * test.rate_per_s * float(paid),
        "bought": float(x[:, test.bought].sum(axis=1).mean()),
        "refused": float(max(0.0, 1 - x.sum(axis=1).mean())),
    }


def _models(name: str, outcomes: OutcomesTable) -> tuple[str, ...]:
    """Of the open ones those whose needs are stated, and the closed ones, in this order."""
    bought = bought_of(name, outcomes)
    return (*(model for model in needs_of(name, outcomes) if model not in bought), *bought)


def run(context: Context) -> dict[str, Any]:
    """Measure on all data sets."""
    datasets, models = [], {}
    for dataset in context.datasets():
        outcomes = dataset.prepared()[0]
        models[dataset.name] = {"bought": bought_of(dataset.name, outcomes)}
        datasets.append(replace(dataset, models=_models(dataset.name, outcomes)))
        models[dataset.name]["own"] = datasets[-1].models[: -len(models[dataset.name]["bought"])]
    rows = context.measure(measure_case, ("knn-40",), "mixed", datasets=datasets, code=CODE)
    settings = asdict(SMOKE if context.smoke else FULL) | {
        "gpu": GPU, "gpu_usd_per_hour": GPU_USD_PER_HOUR,
        "best_alone_gpus": BEST_ALONE_GPUS, "models": models,
    }  # fmt: skip
    return {"settings": settings, "rows": rows, "plots": {"Score against USD an hour": "mixed.png"}}


def section(result: dict[str, Any]) -> list[str]:
    """A table for each data set and quota, and where one plan for both is better beyond doubt and where not."""
    lines = []
    for name in distinct(result["rows"], "dataset"):
        for quota in distinct(result["rows"], "quota"):
            rows = where(result["rows"], dataset=name, quota=quota)
            cases = dict.fromkeys((row["n_gpus"], row["budget"]) for row in rows)
            lines += [f"### {name}, bought models: {quota}", ""]
            lines += [*table(_headings(), [_cells(rows, *case) for case in cases]), "", *_reading(rows), ""]
    return lines


def _headings() -> tuple[str, ...]:
    above = (f"over {arm}, points" for arm in OTHERS)
    return ("GPUs, budget", "USD an hour", *(f"{arm} scores" for arm in ARMS), *above, "GPUs used", "bought", "refused")


def _cells(rows: list[Record], n_gpus: int, budget: float) -> list[str]:
    own = where(rows, n_gpus=n_gpus, budget=budget)
    joint = where(own, arm=JOINT)
    refused = " / ".join(f"{over_seeds(own, 'refused', arm=arm).mean:.0%}" for arm in ARMS)
    return [
        f"{n_gpus}, {budget:.0%}",
        f"{over_seeds(joint, 'usd_per_hour').mean:.1f}",
        *(shown(over_seeds(own, "score", arm=arm), 4) for arm in ARMS),
        *(shown(_above(own, arm), 1, signed=True, scale=100) for arm in OTHERS),
        f"{over_seeds(joint, 'gpus_used').mean:.1f}",
        f"{over_seeds(joint, 'bought').mean:.0%}",
        refused,
    ]


def _above(rows: list[Record], arm: str) -> Any:
    return difference(rows, "score", {"arm": JOINT}, {"arm": arm})


def _reading(rows: list[Record]) -> list[str]:
    read = []
    for arm in OTHERS:
        by_verdict: dict[str, list[str]] = {}
        for n_gpus in distinct(rows, "n_gpus"):
            for budget in distinct(rows, "budget"):
                verdict = called(_above(where(rows, n_gpus=n_gpus, budget=budget), arm))
                by_verdict.setdefault(verdict, []).append(f"{n_gpus} GPUs, {budget:.0%}")
        told = "; ".join(f"{verdict} with {', '.join(cases)}" for verdict, cases in by_verdict.items())
        read.append(f"- One plan for both against {arm}: {told}.")
    return read


def draw(result: dict[str, Any], folder: Path) -> None:
    """Score against the budget, a panel for each data set and quota, with as many GPUs as there are."""
    cases = dict.fromkeys((row["dataset"], row["quota"]) for row in result["rows"])
    figure, axes = panels(len(cases))
    for panel, (name, quota) in zip(axes, cases, strict=True):
        rows = where(result["rows"], dataset=name, quota=quota)
        rows = where(rows, n_gpus=max(distinct(rows, "n_gpus")))
        budgets = distinct(rows, "budget")
        usd = [over_seeds(rows, "usd_per_hour", budget=budget).mean for budget in budgets]
        for number, arm in enumerate(ARMS):
            line(panel, usd, [over_seeds(rows, "score", budget=b, arm=arm) for b in budgets], number, arm)
        panel.set(xlabel="USD an hour", ylabel="score", title=f"{name}, bought: {quota}")
    axes[0].legend(fontsize=8)
    save(figure, folder / "mixed.png")
