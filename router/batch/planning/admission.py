"""Which requests of a batch its slots and its cap can take, before anyone decides who answers them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray, IntArray
from apportion.router.assignment import BatchProblem, first_in_line, largest_feasible_subset
from apportion.router.assignment.program import picked
from apportion.router.assignment.summary import violation
from apportion.router.batch.messages import RouteItem
from apportion.router.batch.money.batch_budget import ROUNDING, allowed_usd
from apportion.router.batch.planning.search import searching
from apportion.router.batch.policy import Policy
from apportion.router.errors import ApportionError, AsleepError, BudgetExceededError, UnavailableError

logger = logging.getLogger(__name__)

ADMISSION_LIMIT_S = 0.1
RETRY_AFTER_S = 30.0  # an engine takes about so long to start


async def admitted(problem: BatchProblem) -> BoolArray:
    """(N,): which of requests that there are slots for the budget has room for, as many as can be.

    Nearly always all, seen at a glance.
    """
    if problem.budget_usd == np.inf:
        return np.ones(problem.n_requests, dtype=bool)
    cost_usd = allowed_usd(problem)
    cheapest = cost_usd.argmin(axis=1)
    roomy = cost_usd.min(axis=1).sum() <= problem.budget_usd * (1 - 1e-8)
    if roomy and violation(problem, cheapest) is None:
        return np.ones(problem.n_requests, dtype=bool)
    try:
        return await searching(partial(largest_feasible_subset, problem, time_limit_s=ADMISSION_LIMIT_S))
    except Exception:
        logger.exception("the search for requests that can pay together failed")
        return np.zeros(problem.n_requests, dtype=bool)


def seatable(problem: BatchProblem) -> BoolArray:
    """(N,): which requests slots and limits have room for, those in front first; nearly always all, at a glance."""
    if not problem.limits and problem.load.sum() <= problem.slots.min():
        return np.ones(problem.n_requests, dtype=bool)
    return first_in_line(problem)


def cheapest_usd(problem: BatchProblem) -> FloatArray:
    """Each request's cheapest allowed cost in USD: (N,)."""
    cheapest: FloatArray = allowed_usd(problem).min(axis=1)
    return cheapest


def allowances(
    rows: IntArray,
    items: Sequence[RouteItem],
    problem: BatchProblem,
    policy: Policy,
    *,
    predicted: BoolArray | None = None,
) -> FloatArray:
    """(N,) USD that the requests bring; together they are the batch's cap.

    A request that names its model brings that model's price if it is higher: whoever names a model has decided
    what to pay, which must not take from the others' allowance nor be refused for it. So does whoever is not
    `predicted`: costs are bounds then, and a cap on expected costs must not refuse what it has always paid for.
    """
    if policy.budget_usd_per_request is None:
        return np.full(len(rows), np.inf)
    bringing = np.array([items[row].model is not None for row in rows])
    if predicted is not None:
        bringing |= ~predicted
    # A hair more than the price, so that no rounding refuses it.
    brought = np.where(bringing, cheapest_usd(problem) * (1 + ROUNDING), 0.0)
    together: FloatArray = np.maximum(brought, policy.budget_usd_per_request)
    return together


def over_budget(cheapest: float, problem: BatchProblem, policy: Policy) -> ApportionError:
    return BudgetExceededError(
        f"the cheapest model that may answer costs {cheapest:.3g} USD, and the batch's cap of "
        f"{problem.budget_usd:.3g} USD ({policy.budget_usd_per_request:.3g} USD a request) cannot pay for it; "
        "shorten the prompt, lower max_tokens, or raise budget_usd_per_request"
    )


def affordable_away(error: ApportionError) -> ApportionError:
    """What is said instead where a cheaper model is only away: whoever asks again may be answered."""
    return UnavailableError(
        f"a model that could be paid has no replica now; try again in some seconds, or: {error.message}"
    )


def all_asleep(models: Sequence[str]) -> AsleepError:
    """What is said where only these models may answer, which have no replica until one is asked for."""
    return AsleepError(
        f"only {', '.join(models)} may answer, without a replica at the moment; one starts for whoever waits: allow "
        "more time, or try again later",
        retry_after_s=RETRY_AFTER_S,
    )


def pay_for_themselves(problem: BatchProblem, own_usd: FloatArray) -> BoolArray:
    """(N,): requests that their own allowances pay for, each on its cheapest model, as far as slots and limits take it.

    Args:
        own_usd: (N,), from `allowances`.
    """
    cost_usd = allowed_usd(problem)
    column = cost_usd.argmin(axis=1)
    pays: BoolArray = cost_usd.min(axis=1) * (1 + ROUNDING / 2) <= own_usd
    load = problem.load if problem.load.ndim == 1 else problem.load[np.arange(len(column)), column]
    for engine in range(problem.n_engines):
        mine = np.flatnonzero(pays & (problem.engine_of[column] == engine))
        pays[mine] = np.cumsum(load[mine]) <= problem.slots[engine]
    for limit in problem.limits:
        pays &= np.cumsum(np.where(pays, picked(limit.use, column), 0.0)) <= limit.at_most
    return pays
