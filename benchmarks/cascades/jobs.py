"""A file as one job whose rows cascade, beside the same job without: the test requests of recorded tables in random
order, the rest planned anew ten times with the money that is really left, first answers held and asked on by these
plans as the service does it, all stages paid. The zoo has the log-probabilities of its engines' answers; other tables a
synthetic verifier of stated strength (AUC beyond what the prompt says, free). *Gated* offers the pairs that pass the
gate, or none; *ungated* the most promising pair whatever the gate says. Gains are at equal realised spend, in
hundredths of the best single model's score. Estimator: our head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apportion.router.arrays import BoolArray, FloatArray
from apportion.router.cascade.gate import fit_gate
from apportion.router.cascade.pair import Pair
from apportion.router.evaluation.case import Case
from apportion.router.evaluation.curve import Curve
from apportion.router.evaluation.statistics import Summary
from apportion.router.jobs.planning.cascades import Stages, with_cascades
from apportion.router.jobs.planning.options import PlanOptions
from apportion.router.jobs.planning.plan import JobPlan, plan_job
from apportion.router.jobs.planning.workload import Means, Workload
from apportion.router.jobs.stages import NOBODY
from benchmarks.cascades.case import REAL, held_out_of, most_promising, signals_of
from benchmarks.cascades.run import CODE, ZOO, few_models
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Context, Record
from benchmarks.experiments.drawing import line, panels, save
from benchmarks.experiments.numbers import distinct, over_seeds, points, shown, where
from benchmarks.experiments.report import by_dataset, table

TITLE = "Bulk jobs with cascades"
AUCS = (0.8, 0.9)
FRACTIONS = (0.2, 0.3, 0.5, 0.7, 1.0)
DIALS = (0.12, 0.2, 0.3, 0.45, 0.65, 0.9, 1.2)
PLANS = 10
BEST_EFFORT = PlanOptions(best_effort=True)


class Job:
    """A job on N recorded rows, from its first plan to its last answer.

    Args:
        signals: (N, M, 4) of every model's answer.
        pairs: none: rows have one answer each.
        plans: that its rows are answered by, one after the other.
    """

    def __init__(
        self, case: Case, signals: FloatArray, pairs: Sequence[Pair], budget_usd: float, plans: int = PLANS
    ) -> None:
        self._case, self._signals, self._pairs = case, signals, tuple(pairs)
        self._budget_usd, self._plans = budget_usd, plans
        self._workload = Workload(case.test.estimates.success, case.test.estimates.cost_usd)
        n = len(case.test)
        self._fresh = np.ones(n, np.bool_)
        self._stages = Stages(np.full(n, NOBODY), np.zeros(n), np.zeros(n), np.full(n, np.inf))
        self.model = np.full(n, NOBODY)  # that gave the answer
        self.first = np.full(n, NOBODY)
        self.paid_usd = np.zeros(n)
        self.asked = np.zeros(n, np.bool_)

    def run(self) -> Job:
        """Answers all rows."""
        order = np.random.default_rng([self._case.seed, 29]).permutation(len(self.model))
        for chunk in np.array_split(order, self._plans):
            plan = self._plan()
            self._ask_on(plan)
            self._answer(np.isin(np.arange(len(self.model)), chunk), plan)
        self._ask_on(self._plan())
        return self

    def _plan(self) -> JobPlan:
        pending = self._fresh | (self._stages.second != NOBODY)
        means = Means(max(self._budget_usd - float(self.paid_usd.sum()), 0.0))
        alone = plan_job(self._workload.rows(self._fresh), means, BEST_EFFORT)
        assert isinstance(alone, JobPlan)
        rows = self._workload.rows(pending)
        plain = alone.among(self._fresh[pending])
        stages = self._stages.rows(pending)
        return with_cascades(rows, means, plain, stages, self._pairs, self._case.models).among(pending)

    def _pay(self, rows: BoolArray) -> None:
        at = np.flatnonzero(rows)
        self.paid_usd[at] += self._case.test.paid_usd[at, self.model[at]]

    def _ask_on(self, plan: JobPlan) -> None:
        asked = (self._stages.second != NOBODY) & (plan.model_of_row != NOBODY)
        self.model[asked] = self._stages.second[asked]
        self._stages.second[asked] = NOBODY
        self.asked |= asked
        self._pay(asked)

    def _answer(self, rows: BoolArray, plan: JobPlan) -> None:
        cheapest = self._workload.cost_usd.argmin(axis=1)
        self.model[rows] = np.where(plan.model_of_row == NOBODY, cheapest, plan.model_of_row)[rows]
        self.first[rows] = self.model[rows]
        self._fresh[rows] = False
        self._pay(rows)
        if plan.second_of_row is None:
            return
        for pair in self._pairs:
            a, b = (self._case.models.index(name) for name in (pair.first, pair.second))
            own = rows & (plan.model_of_row == a) & (plan.second_of_row == b)
            sure = pair.posterior(self._workload.success[own, a], self._signals[own, a])
            self._stages.second[own], self._stages.sure[own] = b, sure
            self._stages.given[own] = pair.second_given(self._workload.success[own, b], sure)

    def told(self) -> dict[str, float]:
        """Means over the rows."""
        rows, score = np.arange(len(self.model)), self._case.test.score
        harmed = self.asked & (score[rows, self.first] > score[rows, self.model])
        return {
            "score": float(score[rows, self.model].mean()),
            "paid_usd": float(self.paid_usd.mean()),
            "asked": float(self.asked.mean()),
            "harmed": float(harmed.mean()),
        }


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Gains of jobs that cascade over jobs that do not, by verifier, pairs and budget."""
    nothing = np.full((*case.test.score.shape, 4), np.nan)
    plain = _curve(case, nothing, (), smoke)
    verifiers: Sequence[float | None] = (None,) if case.test.signals is not None else AUCS[1:] if smoke else AUCS
    records: list[Record] = []
    for auc in verifiers:
        held_out, signals = held_out_of(case, auc), signals_of(case.test, auc, 2 * case.seed + 1)
        gate = fit_gate(held_out, case.seed)
        ungated = most_promising(gate, held_out)
        named = {"verifier": REAL if auc is None else f"AUC {auc:g}", "opened": bool(gate.pairs)}
        found = _curve(case, signals, ungated, smoke) if ungated else plain
        records += _gains(case, plain, found, named | {"pairs": "ungated"})
        same = len(gate.pairs) == 1 and gate.trials[0].passed
        if not same:
            found = _curve(case, signals, gate.pairs, smoke) if gate.pairs else plain
        records += _gains(case, plain, found, named | {"pairs": "gated"})
    return records


def _curve(case: Case, signals: FloatArray, pairs: Sequence[Pair], smoke: bool) -> list[dict[str, float]]:
    whole_usd = float(case.mean_paid_usd[case.best]) * len(case.test)
    dials, plans = (DIALS[::3], 2) if smoke else (DIALS, PLANS)
    return [Job(case, signals, pairs, dial * whole_usd, plans).run().told() for dial in dials]


def _gains(case: Case, plain: list[dict[str, float]], other: list[dict[str, float]], named: Record) -> list[Record]:
    spends = np.array(FRACTIONS) * case.best_cost_usd
    gains = (_through(other).at(spends) - _through(plain).at(spends)) / case.best_score
    order = np.argsort([point["paid_usd"] for point in other])
    paid_usd = np.array([other[k]["paid_usd"] for k in order])
    told = {name: np.interp(spends, paid_usd, [other[k][name] for k in order]) for name in ("asked", "harmed")}
    return [
        named
        | {"fraction": fraction, "gain": None if np.isnan(gains[k]) else float(gains[k])}
        | {name: float(values[k]) for name, values in told.items()}
        for k, fraction in enumerate(FRACTIONS)
    ]


def _through(points_of: list[dict[str, float]]) -> Curve:
    return Curve.through(np.array([p["paid_usd"] for p in points_of]), np.array([p["score"] for p in points_of]))


def run(context: Context) -> dict[str, Any]:
    """The zoo and all data sets, by seed and verifier."""
    datasets = [*map(few_models, context.datasets())]
    if not context.smoke:
        datasets.insert(0, Dataset(ZOO, context.encoder, context.cache))
    code = (*CODE, "benchmarks/cascades/case.py", "router/jobs/planning")
    rows = context.measure(measure_case, ("head",), "jobs with cascades", datasets=datasets, code=code)
    rows = [row | {"dataset": "zoo"} if row["dataset"] == ZOO.name else row for row in rows]
    return {"rows": rows, "plots": {"Points gained at equal spend": "bulk-cascades.png"}}


def section(result: dict[str, Any]) -> list[str]:
    """Gains by verifier and budget, and their reading."""
    return by_dataset(result, _table, _reading)


def _table(rows: list[Record]) -> list[str]:
    cells = []
    for verifier in distinct(rows, "verifier"):
        for pairs in ("gated", "ungated"):
            own = where(rows, verifier=verifier, pairs=pairs)
            opened = where(own, fraction=FRACTIONS[0])
            gate = f"{sum(row['opened'] for row in opened)} of {len(opened)}" if pairs == "gated" else ""
            gains = [points(_gain(own, fraction)) for fraction in FRACTIONS]
            shares = [
                shown(Summary(over_seeds(own, name).mean, np.nan, 1), 1, scale=100) for name in ("asked", "harmed")
            ]
            cells.append([verifier, pairs, *gains, gate, *(f"{share} %" for share in shares)])
    budgets = [f"{fraction:.0%}" for fraction in FRACTIONS]
    return table(["verifier", "pairs", *budgets, "splits the gate opened in", "asked on", "harmed"], cells)


def _gain(rows: list[Record], fraction: float) -> Summary:
    return over_seeds([row for row in rows if row["gain"] is not None], "gain", fraction=fraction)


def _reading(rows: list[Record]) -> list[str]:
    lines = []
    for verifier in distinct(rows, "verifier"):
        for pairs in ("gated", "ungated"):
            own = where(rows, verifier=verifier, pairs=pairs)
            found = {fraction: _gain(own, fraction) for fraction in FRACTIONS}
            gains = [f"{fraction:.0%}" for fraction, gain in found.items() if gain.mean - gain.half_width > 0]
            losses = [f"{fraction:.0%}" for fraction, gain in found.items() if gain.mean + gain.half_width < 0]
            said = f"certain gains at {', '.join(gains)}" if gains else "no certain gain"
            lost = f", certain losses at {', '.join(losses)}" if losses else ""
            lines.append(f"- {verifier}, {pairs}: {said}{lost} of the best model's cost.")
    return lines


def draw(result: dict[str, Any], folder: Path) -> None:
    """Points gained by budget, one panel a data set."""
    names = distinct(result["rows"], "dataset")
    figure, axes = panels(len(names), width=4.4)
    for panel, name in zip(axes, names, strict=True):
        rows = where(result["rows"], dataset=name)
        for number, verifier in enumerate(distinct(rows, "verifier")):
            for offset, pairs in enumerate(("gated", "ungated")):
                gains = [_gain(where(rows, verifier=verifier, pairs=pairs), fraction) for fraction in FRACTIONS]
                scaled = [Summary(100 * gain.mean, 100 * gain.half_width, gain.n) for gain in gains]
                line(panel, FRACTIONS, scaled, 2 * number + offset, f"{verifier}, {pairs}")
        panel.axhline(0, color="0.4", linewidth=0.8)
        panel.set(xlabel="spend, share of the best model's cost", ylabel="points gained")
        panel.set_title(name, fontsize=9)
        panel.legend(fontsize=8)
    save(figure, folder / result["plots"]["Points gained at equal spend"])
