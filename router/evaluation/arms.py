"""The arms of an evaluation: from a case to what its test requests cost and score, over the arm's whole range.

Every arm has one dial that trades quality against spend (a budget per request, a threshold, a mixture); arms are then
compared at equal realised spend. No arm sees the outcomes of the test requests but the oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.assignment import RobustMip, Threshold
from apportion.router.assignment.hull import hull
from apportion.router.evaluation.batches import Setting
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.planners import GAP, PLANNERS, Planner, capped
from apportion.router.evaluation.realised import Realised, curve_of

POINTS = 16
FLOOR = 1e-3
"""Lowest budget as a share of the highest: the cheapest models may cost nothing, and budgets rise by a factor."""

QUANTILES = (0.05, 0.1, 0.25, 0.4, 0.5)

Arm = Callable[[Case, Setting], list[Realised]]


def dials(case: Case) -> FloatArray:
    """(POINTS,) budgets per request, USD: from the cheapest models' to what the likeliest models cost."""
    sample = case.test
    low = float(sample.estimates.cost_usd.min(axis=1).mean())
    likeliest = sample.estimates.cost_usd[np.arange(len(sample)), sample.estimates.success.argmax(axis=1)]
    high = max(float(likeliest.mean()), float(case.mean_paid_usd[case.best]), low * 1.01)
    return np.geomspace(max(low, FLOOR * high) * 1.0001, high * 1.05, POINTS)


def by_budget(planner: Planner) -> Arm:
    """An arm whose dial is the budget a request."""

    def arm(case: Case, setting: Setting) -> list[Realised]:
        return [planner(case, setting, budget) for budget in dials(case).tolist()]

    return arm


def threshold(case: Case, setting: Setting) -> list[Realised]:
    """One target of success for all requests."""
    targets = np.quantile(case.test.estimates.success.max(axis=1), np.linspace(0, 1, POINTS - 1))
    return [capped(Threshold(target))(case, setting, math.inf) for target in [*targets.tolist(), 2.0]]


def quantile_areas(case: Case, setting: Setting) -> dict[float, float]:
    """Area of `robust_mip` with each quantile on the validation requests: what a quantile is chosen by."""
    held_out = replace(case, test=case.validation)
    low, high = span(held_out)
    return {q: curve_of(with_quantile(q)(held_out, setting)).area(low, high) for q in QUANTILES}


def with_quantile(quantile: float) -> Arm:
    """`robust_mip` with this quantile."""
    return by_budget(capped(RobustMip("quantile", quantile=quantile, gap=GAP)))


def robust_quantile(case: Case, setting: Setting) -> list[Realised]:
    """The quantile with the largest area on the validation requests, then `robust_mip` with it."""
    areas = quantile_areas(case, setting)
    return with_quantile(max(areas, key=lambda quantile: areas[quantile]))(case, setting)


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
            nothing,
        )
        for t in np.linspace(0, len(corners) - 1, POINTS)
    ]


def span(case: Case) -> tuple[float, float]:
    """The spends between which areas are taken, USD a request: cheapest single model (at least 5 % of the best
    one's cost) to the best single model.
    """
    high = case.best_cost_usd
    low = max(float(case.test.paid_usd.mean(axis=0).min()), 0.05 * high)
    return min(low, 0.9 * high), high


ARMS: dict[str, Arm] = {
    "random_mixture": random_mixture,
    "threshold": threshold,
    **{name: by_budget(planner) for name, planner in PLANNERS.items()},
    "robust_quantile": robust_quantile,
}
