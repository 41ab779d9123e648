"""Assignments that allow for uncertain estimates of success and of cost.

`quantile`: success is replaced by a lower quantile of its bootstrap distribution (arXiv 2603.26796).
For entry-wise intervals this is the max-min counterpart, since x >= 0.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

import numpy as np

from ..errors import InvalidRequestError
from .mip import Mip
from .outcome import Assignment, Prices
from .problem import BatchProblem, FloatArray

Kind = Literal["quantile"]


def lower_quantile(problem: BatchProblem, quantile: float) -> FloatArray:
    """(n_requests, n_models) quantile of every success estimate, in [0, 1].

    From `success_samples` where given, else of a normal distribution with `success_std`.
    Raises InvalidRequestError when the problem has neither.
    """
    if problem.success_samples is not None:
        return np.asarray(np.quantile(problem.success_samples, quantile, axis=0), np.float64)
    if problem.success_std is None:
        raise InvalidRequestError(
            "Robust assignment needs `success_std` or `success_samples`: give one, or use `mip`.",
            param="success_std",
        )
    return np.clip(problem.success + NormalDist().inv_cdf(quantile) * problem.success_std, 0.0, 1.0)


@dataclass(frozen=True)
class RobustMip:
    """`mip` on pessimistic numbers.

    kind: which numbers are pessimistic.
    quantile: of the success estimates, in (0, 1); choose it on held-out data.
    """

    kind: Kind = "quantile"
    quantile: float = 0.25
    gap: float = 1e-4
    time_limit_s: float | None = None

    name: ClassVar[str] = "robust_mip"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        pessimistic = dataclasses.replace(problem, success=lower_quantile(problem, self.quantile))
        solved = Mip(self.gap, self.time_limit_s).choose(pessimistic, warm=warm, seed=seed)
        expected = np.take_along_axis(problem.success, np.maximum(solved.model, 0)[:, None], axis=1)
        return dataclasses.replace(
            solved,
            strategy=self.name,
            expected_success=float(expected.mean()),
            wall_time_s=time.perf_counter() - started,
        )
