"""Assignments that allow for uncertain estimates of success and of cost.

`quantile`: success is replaced by a lower quantile of its bootstrap distribution (arXiv 2603.26796). For entry-wise
intervals this is the max-min counterpart, since x >= 0.
`gamma`: at most a share of the estimates is at that quantile at once (`budgeted`).
`cost`: the budget holds with a chosen probability although costs are uncertain (`chance`).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal, get_args

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.assignment.budgeted import solve_budgeted
from apportion.router.assignment.chance import solve_chance
from apportion.router.assignment.mip import solve_batch
from apportion.router.assignment.outcome import Assignment, Prices, Termination
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program
from apportion.router.assignment.solver import Goal
from apportion.router.assignment.strategy import TimeLimited, check_gap
from apportion.router.assignment.summary import refuse, summarise
from apportion.router.checked import Doc
from apportion.router.errors import InvalidRequestError

Kind = Literal["quantile", "gamma", "cost"]

# Options of each kind with their defaults.
OPTIONS: dict[str, dict[str, float]] = {
    "quantile": {"quantile": 0.25},
    "gamma": {"quantile": 0.1, "gamma": 0.2},
    "cost": {"confidence": 0.9},
}


def lower_quantile(problem: BatchProblem, quantile: float) -> FloatArray:
    """(n_requests, n_models) quantile of every success estimate, in [0, 1].

    From `success_samples` where given, else of a normal distribution with `success_std`.

    Raises:
        InvalidRequestError: the problem has neither.
    """
    if problem.success_samples is not None:
        return np.asarray(np.quantile(problem.success_samples, quantile, axis=0), np.float64)
    if problem.success_std is None:
        raise InvalidRequestError(
            "success_std: missing, and success_samples too; robust_mip needs one of them, mip needs none",
            param="success_std",
        )
    return np.clip(problem.success + NormalDist().inv_cdf(quantile) * problem.success_std, 0.0, 1.0)


@dataclass(frozen=True)
class RobustMip(TimeLimited):
    """`mip` with uncertain estimates: pessimistic about success (kinds quantile, gamma) or about costs (kind cost).

    Choose `quantile` on held-out data. Options that are left out have the defaults of their kind in OPTIONS.

    Raises:
        InvalidRequestError: an option is out of range, or its kind does not use it.
    """

    kind: Annotated[Kind, Doc("what is uncertain and how")] = "quantile"
    quantile: Annotated[
        float | None, Doc("lower quantile of the success estimates, in (0, 1), for the kinds quantile and gamma")
    ] = None
    gamma: Annotated[
        float | None, Doc("share of the requests at that quantile at once, in [0, 1], for the kind gamma")
    ] = None
    confidence: Annotated[
        float | None, Doc("probability with which the budget holds, in [0.5, 1), for the kind cost")
    ] = None
    gap: Annotated[float, Doc("relative distance to the best possible at which an answer counts as optimal")] = 1e-4

    name: ClassVar[str] = "robust_mip"

    def __post_init__(self) -> None:
        if self.kind not in OPTIONS:
            known = ", ".join(get_args(Kind))
            raise InvalidRequestError(f"kind is {self.kind!r}; use one of {known}", param="kind")
        check_gap(self.gap)
        super().__post_init__()
        ranges = {"quantile": (0.0, 1.0), "gamma": (0.0, 1.0), "confidence": (0.5, 1.0)}
        for option, (low, high) in ranges.items():
            value = getattr(self, option)
            if option not in OPTIONS[self.kind]:
                if value is not None:
                    raise InvalidRequestError(
                        f"{option} has no effect on the kind {self.kind!r}; leave it out", param=option
                    )
                continue
            value = OPTIONS[self.kind][option] if value is None else float(value)
            closed = low <= value <= high if option == "gamma" else low <= value < high and value > 0
            if not closed:
                raise InvalidRequestError(
                    f"{option} is {value}; give a number between {low:g} and {high:g}", param=option
                )
            object.__setattr__(self, option, value)

    @property
    def needs_samples(self) -> bool:
        return self.kind != "cost"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        if self.kind == "cost":
            return self._cost(problem, warm, seed)
        if self.kind == "gamma":
            return self._gamma(problem, warm, seed)
        value = problem.valued(lower_quantile(problem, self.quantile or 0.0))
        return solve_batch(problem, self.name, self.gap, self.time_limit_s, value=value, warm=warm, seed=seed)

    def _gamma(self, problem: BatchProblem, warm: Prices | None, seed: int) -> Assignment:
        goal = self._goal()
        worst = problem.valued(lower_quantile(problem, self.quantile or 0.0))
        deviation = np.maximum(problem.value - worst, 0.0)
        at_once = (self.gamma or 0.0) * problem.n_requests
        found = solve_budgeted(Program.of(problem), deviation, at_once, goal, warm, seed)
        if found.model is None:
            return refuse(problem, self.name, found.reason)
        return summarise(
            problem, found.model, self.name,
            objective=found.objective, bound=found.bound, gap=self.gap, prices=found.prices,
            termination=_termination(found.timed_out),
        )  # fmt: skip

    def _cost(self, problem: BatchProblem, warm: Prices | None, seed: int) -> Assignment:
        if problem.cost_std_usd is None:
            raise InvalidRequestError(
                "cost_std_usd: missing; a budget that holds with a probability needs it, mip does not",
                param="cost_std_usd",
            )
        z = NormalDist().inv_cdf(self.confidence or 0.5)
        found = solve_chance(Program.of(problem), np.square(problem.cost_std_usd), z, self._goal(), warm, seed)
        if found.model is None:
            return refuse(problem, self.name, found.reason, proved=found.proved)
        return summarise(
            problem, found.model, self.name,
            bound=found.bound, gap=self.gap, prices=found.prices, termination=_termination(found.timed_out),
        )  # fmt: skip

    def _goal(self) -> Goal:
        return Goal.within(self.time_limit_s, self.gap)


def _termination(timed_out: bool) -> Termination:
    return Termination.time_limit if timed_out else Termination.gap
