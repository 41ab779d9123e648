"""What a job lacks that cannot be planned: the least money and time that would do, each with a plan found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from apportion.router.assignment import BatchProblem, Infeasibility, Strategy, Termination, assign
from apportion.router.jobs.planning.least import Least, least_seconds, least_usd
from apportion.router.jobs.planning.options import search_limit_s
from apportion.router.jobs.planning.workload import Means, Posed

CLOSE = 1e-3  # so near to the proved bound, relatively, an amount is exact enough
FIRST_STEP, STEP_GROWTH = 1e-4, 8.0  # from the relaxation's amount to the first for which a plan is found

Missing = Literal["models", "slots", "limits", "budget", "deadline", "both"]


@dataclass(frozen=True)
class Amount:
    """least: with which a plan was found; bound: with less there is none, proved."""

    least: float
    bound: float


@dataclass(frozen=True)
class Shortfall:
    """Why a job cannot be planned, and what would do.

    missing: "models": `rows` rows have no model that may answer them; "slots", "limits": the given ones are too few;
    "budget" or "deadline": more of it would do; "both": neither would by itself.
    usd: money that would do at the asked deadline, None: none would; seconds: time that would do with the asked budget,
    None: none would. together: USD and seconds that would do, where both are missing.
    """

    missing: Missing
    message: str
    rows: int = 0
    usd: Amount | None = None
    seconds: Amount | None = None
    together: tuple[float, float] | None = None


def shortfall(posed: Posed, means: Means, strategy: Strategy, reason: Infeasibility | None) -> Shortfall:
    """What is missing of a job that has no plan, and whose every row has a model that may answer it.

    Args:
        reason: why the strategy found none, where it was asked.
    """
    if reason is not None and reason.row == "slots" and not means.timed:
        return Shortfall("slots", reason.message)
    if reason is not None and reason.row == "limits":
        return Shortfall("limits", reason.message)
    usd = _usd(posed, means.seconds, strategy) if math.isfinite(means.budget_usd) else None
    seconds = _seconds(posed, means.budget_usd, strategy)
    limits = (means.budget_usd, "USD"), (means.seconds, "s")
    given = " in ".join(f"{most:.6g} {unit}" for most, unit in limits if math.isfinite(most))
    ways = []
    if usd is not None:
        ways.append(f"raise the budget to {usd.least:.6g} USD")
    if seconds is not None:
        ways.append(f"allow {seconds.least:.6g} s")
    if ways:
        missing: Missing = "deadline" if usd is None else "budget"
        message = f"{given} do not suffice; {' or '.join(ways)}"
        return Shortfall(missing, f"{missing}: {message}", usd=usd, seconds=seconds)
    fastest = _seconds(posed, math.inf, strategy)
    price = None if fastest is None else _usd(posed, fastest.least, strategy)
    if fastest is None or price is None:
        message = f"{given} do not suffice, and no more money and time were found that would; allow more models"
        return Shortfall("both", f"budget, deadline: {message}")
    message = f"{given} do not suffice; raise the budget to {price.least:.6g} USD and allow {fastest.least:.6g} s"
    return Shortfall("both", f"budget, deadline: {message}", together=(price.least, fastest.least))


def _usd(posed: Posed, seconds: float, strategy: Strategy) -> Amount | None:
    """The money with which there is a plan in that time; None: there is none at any price."""
    relaxed = least_usd(posed.problem, posed.speed, seconds)
    dearest = float(posed.problem.cost_usd.max(axis=1).sum())
    return _least(relaxed, dearest, lambda usd: posed.within(usd, seconds), strategy)


def _seconds(posed: Posed, budget_usd: float, strategy: Strategy) -> Amount | None:
    """The time with which there is a plan for that money; None: no time would do, or none was asked for."""
    if posed.speed is None:
        return None
    relaxed = least_seconds(posed.within(budget_usd, 0.0), posed.speed)
    # No plan needs more than the slowest engine does for the longest answer to every row.
    load = posed.problem.load
    longest = float((load if load.ndim == 1 else load.max(axis=1)).sum() / posed.speed[posed.speed > 0].min())
    return _least(relaxed, longest, lambda seconds: posed.within(budget_usd, seconds), strategy)


def _least(relaxed: Least, most: float, within: Callable[[float], BatchProblem], strategy: Strategy) -> Amount | None:
    """The least amount for which a plan is found, from the relaxation's on; None: `most` is not enough."""
    if not math.isfinite(relaxed.amount):
        return None
    bound, low, high, step = relaxed.bound, relaxed.amount, math.inf, FIRST_STEP
    while high > low * (1 + CLOSE):
        if low > most * (1 + CLOSE):
            return None
        trial = (low + high) / 2 if math.isfinite(high) else relaxed.amount * (1 + step)
        problem = within(trial)
        answer = assign(problem, strategy.with_time_limit(search_limit_s(problem.n_requests)))
        if answer.feasible:
            high = trial
        else:
            low, step = trial, step * STEP_GROWTH
            if answer.termination is Termination.infeasible:
                bound = max(bound, trial)
    return Amount(high, bound)
