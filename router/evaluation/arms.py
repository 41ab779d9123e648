"""The arms of an evaluation: from a case and a dial to the models that answer its test requests.

Every arm has one dial that trades quality against spend (a budget per request, a price, a threshold) and is turned
over its whole range; arms are then compared at equal realised spend. No arm sees the outcomes of the test requests
but the oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..assignment import Greedy, Mip, Ndch, NdchP, PerQuery, Price, Prices, RobustMip, Strategy, Threshold, assign
from ..assignment.hull import hull
from ..assignment.pricing import budget_price
from ..assignment.problem import BatchProblem, FloatArray, IntArray
from ..assignment.program import Program
from .batches import Setting, batch_problem
from .case import Case, Sample
from .curve import Curve

POINTS = 16
QUANTILES = (0.05, 0.1, 0.25, 0.4, 0.5)
GAP = 1e-3


@dataclass(frozen=True, eq=False)
class Realised:
    """What an arm did at one dial: mean cost and score a request, and each batch's cost beside its cap, USD."""

    cost_usd: float
    score: float
    batch_cost_usd: FloatArray
    batch_cap_usd: FloatArray


Arm = Callable[[Case, Setting], list[Realised]]


def curve_of(points: list[Realised]) -> Curve:
    """The curve through an arm's points."""
    return Curve.through(np.array([p.cost_usd for p in points]), np.array([p.score for p in points]))


def dials(case: Case) -> FloatArray:
    """Budgets per request, USD: from the cheapest models' to what the likeliest models cost."""
    sample = case.test
    low = float(sample.cost_usd.min(axis=1).mean())
    likeliest = sample.cost_usd[np.arange(len(sample)), sample.success.argmax(axis=1)]
    high = max(float(likeliest.mean()), float(case.mean_paid_usd[case.best]), low * 1.01)
    return np.geomspace(low * 1.0001, high * 1.05, POINTS)


def realise(sample: Sample, model: IntArray, caps: FloatArray, of_batch: IntArray) -> Realised:
    """Outcome of a choice (n_requests,): `of_batch` (n_requests,) says which batch a request was in."""
    rows = np.arange(len(sample))
    paid = sample.paid_usd[rows, model]
    spent = np.bincount(of_batch, weights=paid, minlength=len(caps))
    return Realised(float(paid.mean()), float(sample.score[rows, model].mean()), spent.astype(np.float64), caps)


def batchwise(
    case: Case,
    setting: Setting,
    budget_usd: float,
    choose: Callable[[BatchProblem, int], IntArray],
    *,
    success: FloatArray | None = None,
) -> Realised:
    """Route the test requests batch by batch under a cap of `budget_usd` a request."""
    model, of_batch = np.zeros(len(case.test), np.int64), np.zeros(len(case.test), np.int64)
    caps = []
    for number, rows in enumerate(setting.rows(case.test, case.seed)):
        slots = setting.slots(len(rows), len(case.models))
        problem = batch_problem(case.test, rows, slots, budget_usd * len(rows), success=success)
        model[rows], of_batch[rows] = choose(problem, number), number
        caps.append(problem.budget_usd)
    return realise(case.test, model, np.array(caps), of_batch)


def chosen(problem: BatchProblem, strategy: Strategy, number: int, warm: Prices | None = None) -> IntArray:
    """The strategy's choice; where its cap cannot be kept, what comes nearest: the cheapest that slots allow."""
    answer = assign(problem, strategy, warm=warm, seed=number)
    if answer.feasible:
        return answer.model
    unlimited = replace(problem, budget_usd=math.inf, success=np.zeros_like(problem.success))
    return assign(unlimited, Greedy()).model


def by_budget(strategy: Strategy) -> Arm:
    """An arm whose dial is the cap."""

    def arm(case: Case, setting: Setting) -> list[Realised]:
        return [
            batchwise(case, setting, budget, lambda problem, number: chosen(problem, strategy, number))
            for budget in dials(case)
        ]

    return arm


def threshold(case: Case, setting: Setting) -> list[Realised]:
    """One target of success for all requests."""
    targets = np.quantile(case.test.success.max(axis=1), np.linspace(0, 1, POINTS - 1))
    return [_uncapped(case, setting, Threshold(target)) for target in [*targets.tolist(), 2.0]]


def per_query(case: Case, setting: Setting) -> list[Realised]:
    """One price of cost for all requests of all batches: its spend varies from batch to batch."""
    program, nothing = _unlimited(case.test), np.zeros(len(case.models))
    budgets = dials(case) * len(case.test)
    prices = {budget_price(replace(program, budget=budget), nothing) for budget in budgets.tolist()}
    return [_uncapped(case, setting, PerQuery(price)) for price in sorted({0.0, *prices})]


def _uncapped(case: Case, setting: Setting, strategy: Strategy) -> Realised:
    return batchwise(case, setting, math.inf, lambda problem, number: chosen(problem, strategy, number))


def per_query_batch(case: Case, setting: Setting) -> list[Realised]:
    """One price per batch, with which the batch's expected cost just keeps its cap."""

    def choose(problem: BatchProblem, number: int) -> IntArray:
        price = budget_price(Program.of(problem), np.zeros(problem.n_models))
        strategy = PerQuery(price * (1 + 1e-9))
        return chosen(replace(problem, budget_usd=math.inf), strategy, number)

    return [batchwise(case, setting, budget, choose) for budget in dials(case)]


def price(case: Case, setting: Setting) -> list[Realised]:
    """Prices carried over from the batch before; the first batch has those of the validation requests."""
    points = []
    for budget in dials(case):
        held_out = len(case.validation)
        first = batch_problem(
            case.validation, np.arange(held_out), setting.slots(held_out, len(case.models)), budget * held_out
        )
        carried = [assign(first, Mip(GAP)).prices]

        def choose(problem: BatchProblem, number: int, carried: list[Prices] = carried) -> IntArray:
            model = chosen(problem, Price(), number, carried[-1])
            carried.append(assign(problem, Mip(GAP), warm=carried[-1]).prices)
            return model

        points.append(batchwise(case, setting, budget, choose))
    return points


def robust_quantile(case: Case, setting: Setting) -> list[Realised]:
    """The quantile with the largest area on the validation requests, then `robust_mip` with it."""
    held_out = replace(case, test=case.validation)
    low, high = span(held_out)
    areas = [
        curve_of(by_budget(RobustMip("quantile", quantile=q, gap=GAP))(held_out, setting)).area(low, high)
        for q in QUANTILES
    ]
    quantile = QUANTILES[int(np.argmax(areas))]
    return by_budget(RobustMip("quantile", quantile=quantile, gap=GAP))(case, setting)


def random_mixture(case: Case, setting: Setting) -> list[Realised]:
    """Expected outcome of drawing between the two neighbours on the hull of the models' training means."""
    corners = hull(case.mean_paid_usd, case.mean_score)
    n = len(case.test)
    nothing = np.zeros(0)
    return [
        Realised(
            float(np.interp(t, np.arange(len(corners)), case.test.paid_usd[:, corners].sum(axis=0) / n)),
            float(np.interp(t, np.arange(len(corners)), case.test.score[:, corners].mean(axis=0))),
            nothing,
            nothing,
        )
        for t in np.linspace(0, len(corners) - 1, POINTS)
    ]


def oracle(case: Case, setting: Setting) -> list[Realised]:
    """The best that anyone could do who knew scores and costs beforehand."""
    known = replace(case.test, success=case.test.score, cost_usd=case.test.paid_usd)
    clairvoyant = replace(case, test=known)
    return by_budget(Mip(GAP))(clairvoyant, setting)


def span(case: Case) -> tuple[float, float]:
    """The spends between which areas are taken, USD a request: cheapest single model (at least 5 % of the best
    one's cost) to the best single model.
    """
    high = case.best_cost_usd
    low = max(float(case.test.paid_usd.mean(axis=0).min()), 0.05 * high)
    return min(low, 0.9 * high), high


def _unlimited(sample: Sample) -> Program:
    n, m = sample.success.shape
    return Program(sample.success, sample.cost_usd, np.ones(n), np.full(m, math.inf), math.inf)


ARMS: dict[str, Arm] = {
    "random_mixture": random_mixture,
    "threshold": threshold,
    "ndch": by_budget(Ndch(limits="repair")),
    "ndch_p": by_budget(NdchP(limits="repair")),
    "per_query": per_query,
    "per_query_batch": per_query_batch,
    "greedy": by_budget(Greedy()),
    "price": price,
    "mip": by_budget(Mip(GAP)),
    "robust_quantile": robust_quantile,
    "robust_gamma": by_budget(RobustMip("gamma", gap=5e-3)),
    "robust_cost": by_budget(RobustMip("cost", gap=GAP)),
    "oracle": oracle,
}
