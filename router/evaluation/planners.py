"""Ways to route all test requests at one budget a request, USD; the arms turn that budget over its range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.assignment import Greedy, Mip, Ndch, NdchP, PerQuery, Price, Prices, RobustMip, Strategy, assign
from apportion.router.assignment.pricing import budget_price
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program
from apportion.router.evaluation.batches import Setting, batch_problem
from apportion.router.evaluation.case import Case, Sample
from apportion.router.evaluation.realised import Choose, Realised, batchwise, chosen, nearest

# Batches of requests that are nearly alike, with a tight budget and few slots, take up to half a minute for 1e-4.
GAP = 2e-3

# A price found where two models tie may fall on either side of the cap.
ABOVE = 1 + 1e-9

Planner = Callable[[Case, Setting, float], Realised]


def capped(strategy: Strategy) -> Planner:
    """Every batch under a cap of its own, solved from the prices of the one before."""

    def plan(case: Case, setting: Setting, budget_usd: float) -> Realised:
        prices: Prices | None = None

        def choose(problem: BatchProblem, number: int) -> IntArray:
            nonlocal prices
            answer = assign(problem, strategy, warm=prices, seed=number)
            if not answer.feasible:
                return nearest(problem)
            prices = answer.prices
            return answer.model

        return batchwise(case, setting, budget_usd, choose)

    return plan


def per_query(case: Case, setting: Setting, budget_usd: float) -> Realised:
    """One price of cost for all requests of all batches, with which their expected total is the whole budget."""
    return _one_price(case, setting, budget_usd, whole_price(case.test, budget_usd))


def per_query_capped(case: Case, setting: Setting, budget_usd: float) -> Realised:
    """The least price for all requests of all batches with which every batch keeps its cap."""
    prices = [
        batch_price(batch_problem(case.test, rows, setting.slots(len(rows), len(case.models)), budget_usd * len(rows)))
        for rows in setting.rows(case.test, case.seed)
    ]
    return _one_price(case, setting, budget_usd, max(prices) * ABOVE)


def per_query_batch(case: Case, setting: Setting, budget_usd: float) -> Realised:
    """One price per batch, with which the batch's expected cost just keeps its cap; repaired where slots bind."""

    def choose(problem: BatchProblem, number: int) -> IntArray:
        return chosen(problem, PerQuery(batch_price(problem) * ABOVE), number)

    return batchwise(case, setting, budget_usd, choose)


def price(case: Case, setting: Setting, budget_usd: float) -> Realised:
    """Prices carried over from the batch before; the first batch has those of the validation requests."""
    held_out = len(case.validation)
    slots = setting.slots(held_out, len(case.models))
    first = batch_problem(case.validation, np.arange(held_out), slots, budget_usd * held_out)
    carried = [assign(first, Mip(GAP)).prices]

    def choose(problem: BatchProblem, number: int) -> IntArray:
        model = chosen(problem, Price(), number, carried[-1])
        carried.append(assign(problem, Mip(GAP), warm=carried[-1]).prices)
        return model

    return batchwise(case, setting, budget_usd, choose)


def first_come(case: Case, setting: Setting, budget_usd: float) -> Realised:
    """One request at a time: each takes the best model that still has a slot when it comes; one price for all."""
    cost_price = whole_price(case.test, budget_usd)

    def choose(problem: BatchProblem, number: int) -> IntArray:
        return in_turn(problem.value - cost_price * problem.cost_usd, problem.slots)

    return batchwise(case, setting, math.inf, choose, cap_usd=budget_usd)


def in_turn(worth: FloatArray, slots: IntArray) -> IntArray:
    """(n_requests,) every request's best model of those that the requests before it have left free.

    All choose at once and an overfull model keeps the earliest, until none is refused: with one order for all
    models that is the same as one by one (Gale and Shapley 1962, "College Admissions and the Stability of Marriage").
    There have to be slots for all.
    """
    left = worth.copy()
    while True:
        model: IntArray = left.argmax(axis=1)
        over = np.flatnonzero(np.bincount(model, minlength=len(slots)) > slots)
        if not over.size:
            return model
        for j in over.tolist():
            left[np.flatnonzero(model == j)[slots[j] :], j] = -np.inf


def oracle(case: Case, setting: Setting, budget_usd: float) -> Realised:
    """The best that anyone could do who knew scores and costs beforehand."""
    hindsight = replace(case.test.estimates, success=case.test.score, cost_usd=case.test.paid_usd)
    known = replace(case.test, estimates=hindsight)
    return capped(Mip(GAP))(replace(case, test=known), setting, budget_usd)


def whole_price(sample: Sample, budget_usd: float) -> float:
    """The price of cost at which all requests together are expected to spend `budget_usd` each."""
    own, (n, m) = sample.estimates, sample.score.shape
    whole = Program(own.success, own.cost_usd, np.ones(n), np.full(m, math.inf), budget_usd * n)
    return budget_price(whole)


def batch_price(problem: BatchProblem) -> float:
    """The price of cost at which the batch is expected to spend its cap, slots aside."""
    return budget_price(Program.of(problem))


def _one_price(case: Case, setting: Setting, budget_usd: float, cost_price: float) -> Realised:
    choose: Choose = lambda problem, number: chosen(problem, PerQuery(cost_price), number)  # noqa: E731
    return batchwise(case, setting, math.inf, choose, cap_usd=budget_usd)


PLANNERS: dict[str, Planner] = {
    "ndch": capped(Ndch(limits="repair")),
    "ndch_p": capped(NdchP(limits="repair")),
    "per_query": per_query,
    "per_query_capped": per_query_capped,
    "per_query_batch": per_query_batch,
    "first_come": first_come,
    "greedy": capped(Greedy()),
    "price": price,
    "mip": capped(Mip(GAP)),
    "robust_gamma": capped(RobustMip("gamma", gap=5e-3)),
    "robust_cost": capped(RobustMip("cost", gap=GAP)),
    "oracle": oracle,
}
