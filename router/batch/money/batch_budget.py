"""A batch's money at the moment of its planning: which models each request can pay for at worst, and its allowance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.policy import ServedModel, longest_answers
from apportion.router.budget import Pacer, Shortage, WindowState, worst_case_nano
from apportion.router.budget.standing import Claim, Standing
from apportion.router.errors import ApportionError, BudgetExceededError
from apportion.router.estimates import Estimates

ROUNDING = 1e-6


@dataclass(frozen=True)
class BatchBudget:
    """What N requests may cost on M models, and what the limits leave them.

    Args:
        items: the N requests.
        models: (M,), the names of the columns' models.
        worst_nano: (N, M) nano-USD, the most that each can cost.
        left_nano: (N, M) nano-USD, what the limits leave each.
        standing: how the limits stand.
        pacer: decides the batch's allowance; None: money is not paced.
        window: that the pacer spreads money over; None: nothing limits the service in it any more.
    """

    items: Sequence[RouteItem]
    models: tuple[str, ...]
    worst_nano: IntArray
    left_nano: IntArray
    standing: Standing
    pacer: Pacer | None
    window: WindowState | None

    @property
    def affordable(self) -> BoolArray:
        """(N, M): whether every limit has room for the request's worst case on the model, by itself."""
        return self.worst_nano <= self.left_nano

    def claim(self, row: int, column: int) -> Claim:
        """What the request sets aside to go to the model of this column."""
        item = self.items[row]
        return Claim(item.id, item.account, self.models[column], int(self.worst_nano[row, column]))

    def error(self, row: int, may_answer: BoolArray) -> ApportionError:
        """Why a request can pay for none of the models that may answer: the limit that is soonest over."""
        shortages = [
            shortage
            for column in np.flatnonzero(may_answer).tolist()
            if (shortage := self.standing.short(self.claim(row, column)))
        ]
        if not shortages:
            return BudgetExceededError("the budget has no room for this request; try again")
        return min(shortages, key=_wait_s).error(self.standing.now_s)

    def allowance_usd(self, pacer: Pacer, problem: BatchProblem) -> float:
        """What the batch may spend by the pacing, its cheapest models at least: only limits refuse a request."""
        if self.window is None:  # the limit was taken away while the service runs
            return float("inf")
        cost_usd = allowed_usd(problem)
        cheapest_usd = float(cost_usd.min(axis=1).sum())
        return max(pacer.allowance_usd(problem.success, cost_usd, self.window), cheapest_usd * (1 + ROUNDING))


def allowed_usd(problem: BatchProblem) -> FloatArray:
    """(N, M): the costs of the pairs that are allowed, infinite for the others."""
    return problem.cost_usd if problem.allowed is None else np.where(problem.allowed, problem.cost_usd, np.inf)


def _wait_s(shortage: Shortage) -> float:
    return float("inf") if shortage.retry_at_s is None else shortage.retry_at_s


def worst_cases(items: Sequence[RouteItem], estimates: Estimates, models: Sequence[ServedModel]) -> IntArray:
    """(N, M) nano-USD: the most that each request can cost on each model.

    A prompt that was not read in full (`unread_prompt`) may fill the context.
    """
    context = np.array([model.max_model_len for model in models], dtype=float)
    prompts = np.array([item.prompts for item in items])
    unread = np.array([item.unread_prompt for item in items])
    tokens = np.where(unread[:, None], context[None, :] * prompts[:, None], estimates.input_tokens)
    return worst_case_nano(
        tokens,
        longest_answers([item.max_tokens for item in items], models),
        np.array([item.sequences for item in items]),
        np.where(unread, 2, prompts),
        context,
        [model.price for model in models],
    )
