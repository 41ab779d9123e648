"""Cascades in a batch: which of its requests may take one, their columns, and the plan of second stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem, Limit, Prices
from apportion.router.batch.messages import RouteItem, Turn
from apportion.router.batch.planning.batch import Batch, most_seconds
from apportion.router.batch.policy import Policy, priority_weight
from apportion.router.batch.stages import Second, second_id
from apportion.router.cascade.policies import Policies, charges, columns, offered, second_stage
from apportion.router.estimates import Estimates

MEMORY = 64.0
"""Requests that shadow prices are a mean over: those of a batch of one say little."""


@dataclass(slots=True)
class Thresholds:
    """Shadow prices that cascades are decided by, of the last batches by strategy."""

    _prices: dict[str, Prices] = field(default_factory=dict)

    def of(self, strategy: str) -> Prices | None:
        """None: no batch has been planned by the strategy."""
        return self._prices.get(strategy)

    def learn(self, strategy: str, prices: Prices, n_requests: int) -> None:
        """What a batch of so many requests has come to."""
        known = self._prices.get(strategy)
        if known is not None:
            new = -np.expm1(-n_requests / MEMORY)
            budget = (1 - new) * known.budget + new * prices.budget
            prices = Prices(budget, (1 - new) * known.slots + new * prices.slots)
        self._prices[strategy] = prices


@dataclass(frozen=True, eq=False)
class Offer:
    """A problem whose columns behind the models are policies.

    Args:
        problem: of N requests; M models and K policies.
        policies: the K.
        charge: (N, M), what each model costs at the prices that the policies were made with, in success.
    """

    problem: BatchProblem
    policies: Policies
    charge: FloatArray

    def models(self, chosen: IntArray) -> IntArray:
        """(N,) the models that answer first, of choices among all columns; -1 stays."""
        n_models = self.charge.shape[1]
        first = np.concatenate([np.arange(n_models), self.policies.first, [-1]])
        models: IntArray = first[chosen]
        return models

    def second(self, item: RouteItem, i: int, chosen: int, names: Sequence[str]) -> Second | None:
        """The second stage of a choice for the problem's request `i`; None: it is a model alone."""
        k = chosen - len(names)
        if k < 0:
            return None
        column = int(self.policies.second[k])
        probability = float(self.policies.escalation[i, k])
        return Second(second_id(item.id), names[column], float(self.charge[i, column]), probability)


def may_cascade(batch: Batch, rows: IntArray) -> BoolArray:
    """(N,) which of these requests may have two answers; a conversation that goes on stays with one model."""
    turns = [None if batch.stays is None else batch.stays.turn(row, 0) for row in rows.tolist()]
    return np.array(
        [
            batch.items[row].may_cascade and not batch.items[row].bulk and turn in (None, Turn.first)
            for row, turn in zip(rows.tolist(), turns, strict=True)
        ]
    )


def offer(batch: Batch, rows: IntArray, problem: BatchProblem, may: BoolArray, prices: Prices) -> Offer | None:
    """The rows' problem with cascades; None: nobody may take one.

    One that both models' worst cases cannot be paid for together is left out, and one that is expected to cost more
    than its request allows, or whose two stages together are expected to take longer.
    """
    policies = columns(batch.policy.cascades, batch.policy.names, problem, prices)
    if not policies.pairs:
        return None
    widened = offered(problem, policies, prices)
    # All that is in flight until there is a second plan is the first one.
    uses = [np.hstack([limit.use, limit.use[:, policies.first]]) for limit in problem.limits]
    limits = tuple(replace(limit, use=use) for limit, use in zip(problem.limits, uses, strict=True))
    most_usd = np.array([_or_inf(batch.items[row].ask.max_cost_usd) for row in rows.tolist()])
    taken = may[:, None] & (policies.cost_usd <= most_usd[:, None])
    if (seconds := batch.estimates.seconds) is not None:
        both_s = np.nan_to_num(seconds[rows][:, policies.first] + seconds[rows][:, policies.second])
        taken &= both_s <= most_seconds([batch.items[row] for row in rows.tolist()], batch.policy)[:, None]
    if batch.budget is not None:
        worst, left = batch.budget.worst_nano[rows], batch.budget.left_nano[rows]
        both = worst[:, policies.first] + worst[:, policies.second]
        taken &= both <= np.minimum(left[:, policies.first], left[:, policies.second])
    alone = np.ones(problem.success.shape, dtype=bool) if problem.allowed is None else problem.allowed
    taken &= alone[:, policies.first] & alone[:, policies.second]
    if not taken.any():
        return None
    widened = replace(widened, allowed=np.hstack([alone, taken]), limits=limits)
    return Offer(widened, policies, charges(problem, prices))


@dataclass(frozen=True, eq=False)
class SecondStages:
    """Requests with a first answer, as a problem whose last column keeps it.

    Args:
        problem: N requests, M models and the column; of the second models it has what they are worth at the prices
            that the first stages were decided by.
        sure: (N,) P(the first answer is right).
        success: (N,) P(the second one would be).
    """

    problem: BatchProblem
    sure: FloatArray
    success: FloatArray


def second_stages(
    items: Sequence[RouteItem],
    estimates: Estimates,
    allowed: BoolArray,
    free_slots: IntArray,
    policy: Policy,
    limits: tuple[Limit, ...] = (),
) -> SecondStages:
    """What second stages are planned by.

    What asking again costs was settled with the first stage: the money that a cascade was expected to take is what
    its batch has planned. Only slots, and limits on what is in flight, are looked at anew.

    Args:
        items: each with its first answer.
        allowed: (N, M), models that may answer now.
        free_slots: (n_engines,), that may be taken now.
        limits: with what is left of them.
    """
    answers = [item.first for item in items if item.first is not None]
    first = np.array([policy.column_of(answer.model) for answer in answers])
    second = np.array([policy.column_of(answer.second.model) for answer in answers])
    sure, success = estimates.success[np.arange(len(items)), first], np.zeros(len(items))
    signals = np.array([answer.signals for answer in answers], dtype=np.float64)
    offered_still = np.zeros(len(items), dtype=bool)  # the policy may have changed meanwhile
    for pair in policy.cascades:
        rows = np.flatnonzero((first == policy.column_of(pair.first)) & (second == policy.column_of(pair.second)))
        if len(rows):
            sure[rows] = pair.posterior(sure[rows], signals[rows])
            success[rows] = pair.second_given(estimates.success[rows, second[rows]], sure[rows])
            offered_still[rows] = True
    allowed = allowed & offered_still[:, None]
    charge = np.array([answer.second.charge for answer in answers])
    problem = estimates.problem(
        free_slots,
        allowed=allowed,
        weight=priority_weight([item.priority for item in items]),
        row_of_column=policy.row_of_column,
        limits=limits,
        with_samples=False,
    )
    worth = np.clip(success - charge, 0.0, 1.0)
    return SecondStages(second_stage(problem, np.clip(sure, 0.0, 1.0), worth, second), sure, success)


def _or_inf(value: float | None) -> float:
    return float("inf") if value is None else value
