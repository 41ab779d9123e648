"""The evaluation protocol: seeds, estimators and arms on one outcomes table, compared at equal realised spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from apportion.router.cascade.gate import Gate
from apportion.router.errors import ConfigurationError, OutcomesTableError
from apportion.router.evaluation.arms import ARMS, span
from apportion.router.evaluation.batches import Setting
from apportion.router.evaluation.case import CalibrationErrors, Case, fit_case
from apportion.router.evaluation.realised import Realised, curve_of
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.estimator import Estimator, FittedEstimator
from apportion.router.prediction.features import Features

BUDGET_FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
TARGETS = (0.95, 0.98, 0.99, 1.0)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """An arm's realised mean score and mean cost a request when it may spend `budget_fraction` of what the best
    single model costs; score is None where the arm cannot spend as little.
    """

    seed: int
    arm: str
    estimator: str
    budget_fraction: float
    score: float | None
    cost_usd: float
    best_single_score: float
    best_single_cost_usd: float


@dataclass(frozen=True)
class Measure:
    """An arm's whole curve in numbers.

    area: mean score over log spend (`arms.span`). headroom: share of the way from the best single model to the
    per-request oracle at the best single model's cost. cost_of: spend at which 95, 98, 99, 100 % of the best single
    model's score is reached, as a share of its cost, NaN = never. over_cap: share of batches whose realised cost
    passed their cap; worst_cap_ratio: the largest ratio of the two; NaN for arms without a cap.
    """

    seed: int
    arm: str
    estimator: str
    area: float
    headroom: float
    cost_of: tuple[float, ...]
    over_cap: float
    worst_cap_ratio: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All rows and measures, and by (seed, estimator) the calibration errors and, where outcomes have signals, what the
    gate says of cascades.
    """

    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    errors: dict[tuple[int, str], CalibrationErrors]
    gates: dict[tuple[int, str], Gate] = field(default_factory=dict)

    def as_json(self) -> list[dict[str, object]]:
        """The rows as JSON objects."""
        return [asdict(row) for row in self.rows]


def evaluate(
    table: OutcomesTable,
    features: Features,
    estimators: Mapping[str, Estimator[FittedEstimator]],
    *,
    arms: Sequence[str] = tuple(ARMS),
    seeds: int = 5,
    setting: Setting | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run the protocol: `table` has to be whole (`case.usable`), `features` has its rows in order.

    Raises ConfigurationError for an unknown arm, and OutcomesTableError when the best single model costs nothing.
    """
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        raise ConfigurationError(f"arm {unknown[0]!r} is unknown: use one of {', '.join(ARMS)}")
    setting = setting or Setting()
    total, done = seeds * len(estimators) * (len(arms) + 1), 0
    rows: list[Row] = []
    measures: list[Measure] = []
    errors: dict[tuple[int, str], CalibrationErrors] = {}
    gates: dict[tuple[int, str], Gate] = {}

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("evaluate", done, total)

    for seed in range(seeds):
        for name, estimator in estimators.items():
            case = fit_case(table, features, name, estimator, seed)
            if case.best_cost_usd == 0:
                raise OutcomesTableError(
                    f"cost_usd: the best single model, {case.models[case.best]!r}, costs nothing, and budgets are "
                    "shares of its cost: send it everything, or give it a price (of a GPU's time, for example)"
                )
            errors[seed, name] = case.errors
            if case.gate is not None:
                gates[seed, name] = case.gate
            rows += single_models(case)
            step()
            for arm in arms:
                points = ARMS[arm](case, setting)
                rows += read_off(case, arm, points)
                measures.append(measure(case, arm, points))
                step()
    return Evaluation(tuple(rows), tuple(measures), errors, gates)


def single_models(case: Case) -> list[Row]:
    """Every model alone, at the share of the best one's cost that it takes."""
    cost, score = case.test.paid_usd.mean(axis=0), case.test.score.mean(axis=0)
    return [
        _row(case, f"single:{model}", float(cost[j] / case.best_cost_usd), float(score[j]), float(cost[j]))
        for j, model in enumerate(case.models)
    ]


def read_off(case: Case, arm: str, points: list[Realised]) -> list[Row]:
    """The arm's rows at all budget fractions."""
    curve = curve_of(points)
    spend = np.array(BUDGET_FRACTIONS) * case.best_cost_usd
    scores = curve.at(spend)
    return [
        _row(case, arm, fraction, float(score), min(float(limit), float(curve.cost_usd[-1])))
        for fraction, limit, score in zip(BUDGET_FRACTIONS, spend, scores, strict=True)
    ]


def _row(case: Case, arm: str, fraction: float, score: float, cost_usd: float) -> Row:
    return Row(
        seed=case.seed,
        arm=arm,
        estimator=case.estimator,
        budget_fraction=fraction,
        score=None if np.isnan(score) else score,
        cost_usd=cost_usd,
        best_single_score=case.best_score,
        best_single_cost_usd=case.best_cost_usd,
    )


def measure(case: Case, arm: str, points: list[Realised]) -> Measure:
    """The arm's curve in numbers."""
    curve = curve_of(points)
    at_full = float(curve.at(np.array(case.best_cost_usd)))
    caps = np.concatenate([p.batch_cap_usd for p in points])
    ratios = np.concatenate([p.batch_cost_usd for p in points])[np.isfinite(caps)] / caps[np.isfinite(caps)]
    return Measure(
        seed=case.seed,
        arm=arm,
        estimator=case.estimator,
        area=curve.area(*span(case)),
        headroom=(at_full - case.best_score) / max(case.oracle_score - case.best_score, 1e-12),
        cost_of=tuple(curve.cost_of(t * case.best_score) / case.best_cost_usd for t in TARGETS),
        over_cap=float((ratios > 1).mean()) if ratios.size else float("nan"),
        worst_cap_ratio=float(ratios.max()) if ratios.size else float("nan"),
    )
