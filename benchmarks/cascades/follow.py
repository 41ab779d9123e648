"""Routing the test requests with cascades, both stages planned and paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Mip, assign
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.policies import Policies, columns, offered, second_stage
from apportion.router.evaluation import Setting
from apportion.router.evaluation.batches import batch_problem
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.planners import GAP
from apportion.router.evaluation.realised import nearest

DIALS = (0.03, 0.07, 0.1, 0.15, 0.22, 0.32, 0.45, 0.6, 0.8, 1.0, 1.3, 1.7)
"""Budgets a request, as shares of what the best single model costs in training."""


@dataclass(frozen=True, eq=False)
class Followed:
    """What became of N requests: their `score` and `paid_usd`; `waited`: whether a first answer was looked at; `asked`:
    whether the second model was asked; `harmed`: whether it was wrong where the first was right; `waited_tokens`:
    expected tokens of the first answer that was looked at.
    """

    score: FloatArray
    paid_usd: FloatArray
    waited: BoolArray
    asked: BoolArray
    harmed: BoolArray
    waited_tokens: FloatArray

    def means(self) -> dict[str, float]:
        return {name: float(getattr(self, name).mean()) for name in self.__dataclass_fields__}


def curve(case: Case, signals: FloatArray, pairs: Sequence[Pair], setting: Setting) -> list[dict[str, float]]:
    """Means over the test requests at budgets around those that are compared; without pairs this is plain `mip`.

    Args:
        signals: (n_test, n_models, 4).
    """
    dials = np.array(DIALS) * float(case.mean_paid_usd[case.best])
    return [follow(case, signals, pairs, setting, budget).means() for budget in dials.tolist()]


def follow(case: Case, signals: FloatArray, pairs: Sequence[Pair], setting: Setting, budget_usd: float) -> Followed:
    """Batch by batch under a cap of `budget_usd` a request, as `mip` does."""
    test, n = case.test, len(case.test)
    first, second = np.zeros(n, np.int64), np.full(n, -1)
    asked = np.zeros(n, np.bool_)
    for number, rows in enumerate(setting.rows(test, case.seed)):
        slots = setting.slots(len(rows), len(case.models))
        problem = batch_problem(test, rows, slots, budget_usd * len(rows))
        first[rows], second[rows], asked[rows] = _batch(case, problem, signals[rows], pairs, rows, number)
    index = np.arange(n)
    waited = second >= 0
    score, paid_usd = test.score[index, first], test.paid_usd[index, first]
    last = np.where(asked, second, first)
    tokens = np.nan_to_num(test.estimates.output_tokens[index, first])
    return Followed(
        score=test.score[index, last],
        paid_usd=paid_usd + np.where(asked, test.paid_usd[index, second], 0.0),
        waited=waited,
        asked=asked,
        harmed=asked & (score > test.score[index, last]),
        waited_tokens=np.where(waited, tokens, 0.0),
    )


def _batch(
    case: Case, problem: BatchProblem, signals: FloatArray, pairs: Sequence[Pair], rows: IntArray, number: int
) -> tuple[IntArray, IntArray, BoolArray]:
    """First models, second ones (-1 where there is no cascade), and whether these are asked."""
    none, nobody = np.full(len(rows), -1), np.zeros(len(rows), np.bool_)
    plain = assign(problem, Mip(GAP), seed=number)
    if not plain.feasible:
        return nearest(problem), none, nobody
    if not pairs:
        return plain.model, none, nobody
    policies = columns(pairs, case.models, problem, plain.prices)
    answer = assign(offered(problem, policies, plain.prices), Mip(GAP), warm=plain.prices, seed=number)
    chosen = answer.model - len(case.models)
    at = np.flatnonzero(chosen >= 0)
    if not at.size:
        return answer.model, none, nobody
    first, second = answer.model.copy(), none
    first[at], second[at] = policies.first[chosen[at]], policies.second[chosen[at]]
    # What first answers really cost is known by then; what the others will cost is not.
    left_usd = problem.budget_usd - problem.cost_usd[np.arange(len(rows)), first].sum(where=chosen < 0)
    left_usd -= case.test.paid_usd[rows[at], first[at]].sum()
    nobody[at] = _second_plan(problem.subset(at), policies, chosen[at], signals[at], max(left_usd, 0.0), number)
    return first, second, nobody


def _second_plan(
    problem: BatchProblem, policies: Policies, chosen: IntArray, signals: FloatArray, left_usd: float, number: int
) -> BoolArray:
    """Which requests that have a first answer ask on."""
    first, second = policies.first[chosen], policies.second[chosen]
    sure, given = np.empty(len(chosen)), np.empty(len(chosen))
    for k, pair in enumerate(policies.pairs):
        own = chosen == k
        sure[own] = pair.posterior(problem.success[own, first[own]], signals[own, first[own]])
        given[own] = pair.second_given(problem.success[own, second[own]], sure[own])
    stage = second_stage(replace(problem, budget_usd=left_usd), sure, given, second)
    asked: BoolArray = assign(stage, Mip(GAP), seed=number).model == second
    return asked
