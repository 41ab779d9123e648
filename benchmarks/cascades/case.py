"""One split of one table: what cascades gain over plain routing, and what the gate says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.cascade.gate import Gate, HeldOut, fit_gate, fit_pair
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.posterior import Posterior, learnable
from apportion.router.evaluation import Setting
from apportion.router.evaluation.case import Case, Sample, fit_case
from apportion.router.evaluation.curve import Curve
from apportion.router.prediction.estimators import estimator
from benchmarks.cascades.follow import curve
from benchmarks.cascades.signals import stated
from benchmarks.experiments.cases import Dataset
from benchmarks.experiments.context import Record

AUCS = (0.5, 0.6, 0.7, 0.8, 0.9)
FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
MORE_ROWS = (0.75, 0.05, 0.2)
"""Half of the rows that calibrate train too; the test rows are the same."""
REAL = "log-probabilities"

Points = list[dict[str, float]]


def measure_case(case: Case, dataset: Dataset, smoke: bool) -> list[Record]:
    """Plain routing, routing by a predictor with more rows, and cascades behind the gate and without it."""
    setting = Setting(batch_size=64 if smoke else 1_024)
    nothing = np.full((*case.test.score.shape, 4), np.nan)
    plain = curve(case, nothing, (), setting)
    more = _more_rows(case, dataset)
    records: list[Record] = _compared(case, plain, curve(more, nothing, (), setting), {"pairs": "more rows"})
    verifiers: Sequence[float | None] = (None,) if case.test.signals is not None else AUCS[::4] if smoke else AUCS
    for auc in verifiers:
        verifier = {"verifier": REAL if auc is None else f"AUC {auc:g}"}
        held_out, signals = held_out_of(case, auc), signals_of(case.test, auc, 2 * case.seed + 1)
        gate = fit_gate(held_out, case.seed)
        records += [{"kind": "trial", **verifier, **_trial(gate, number)} for number in range(len(gate.trials))]
        records += [{**verifier, **record} for record in _told_apart(case, held_out, signals)]
        records.append({"kind": "gate", **verifier, "pairs_offered": len(gate.pairs), "closed": gate.closed})
        ungated = most_promising(gate, held_out)
        found = curve(case, signals, ungated, setting) if ungated else plain
        records += _compared(case, plain, found, {**verifier, "pairs": "ungated"})
        if not gate.pairs:
            found = plain
        elif not (len(gate.pairs) == 1 and gate.trials[0].passed):  # else it is the same pair
            found = curve(case, signals, gate.pairs, setting)
        records += _compared(case, plain, found, {**verifier, "pairs": "gated"})
    return records


def most_promising(gate: Gate, held_out: HeldOut) -> tuple[Pair, ...]:
    """The pair that was tried first, whatever came of it."""
    return tuple(fit_pair(held_out, trial.first, trial.second) for trial in gate.trials[:1])


def held_out_of(case: Case, auc: float | None) -> HeldOut:
    """The rows that calibrate, with their own signals or those of a stated verifier."""
    own = case.validation
    return HeldOut(
        models=case.models,
        success=own.estimates.success,
        cost_usd=own.estimates.cost_usd,
        scores=own.score,
        paid_usd=own.paid_usd,
        signals=signals_of(own, auc, 2 * case.seed),
    )


def signals_of(sample: Sample, auc: float | None, seed: int) -> FloatArray:
    """(N, M, 4) the sample's own, or those of a stated verifier."""
    if auc is not None:
        return stated(sample.score, auc, seed)
    assert sample.signals is not None
    return sample.signals


def _more_rows(case: Case, dataset: Dataset) -> Case:
    table, features = dataset.prepared()
    more = fit_case(table, features, case.estimator, estimator(case.estimator), case.seed, MORE_ROWS)
    assert np.array_equal(more.test_rows, case.test_rows)
    return replace(more, best=case.best, mean_paid_usd=case.mean_paid_usd)


def _compared(case: Case, plain: Points, other: Points, named: Record) -> list[Record]:
    """Gains over plain routing at the same realised spend, and what else is told, at all budgets."""
    spends = np.array(FRACTIONS) * case.best_cost_usd
    gains = (_curve(other).at(spends) - _curve(plain).at(spends)) / case.best_score
    order = np.argsort([point["paid_usd"] for point in other])
    paid_usd = np.array([other[k]["paid_usd"] for k in order])
    told = {
        name: np.interp(spends, paid_usd, [other[k][name] for k in order])
        for name in ("waited", "asked", "harmed", "waited_tokens")
    }
    return [
        {
            "kind": "gain", **named, "fraction": fraction,
            "score": float(_curve(other).at(spends[k : k + 1])[0]) / case.best_score,
            "gain": None if np.isnan(gains[k]) else float(gains[k]),
            **{name: float(values[k]) for name, values in told.items()},
        }
        for k, fraction in enumerate(FRACTIONS)
    ]  # fmt: skip


def _curve(points: Points) -> Curve:
    return Curve.through(np.array([p["paid_usd"] for p in points]), np.array([p["score"] for p in points]))


def _trial(gate: Gate, number: int) -> Record:
    trial = gate.trials[number]
    return {**vars(trial), "passed": trial.passed}


def _told_apart(case: Case, held_out: HeldOut, signals: FloatArray) -> list[Record]:
    """By model, how well right answers to the test requests are told from wrong ones before and after the answer."""
    from sklearn.metrics import roc_auc_score

    records = []
    for j, model in enumerate(case.models):
        right, prior = case.test.score[:, j] > 0.5, case.test.estimates.success[:, j]
        if learnable(held_out.signals[:, j], held_out.scores[:, j]) and 0 < right.sum() < len(right):
            posterior = Posterior.fit(held_out.success[:, j], held_out.signals[:, j], held_out.scores[:, j])
            after = posterior(prior, signals[:, j])
            aucs = {"before": float(roc_auc_score(right, prior)), "after": float(roc_auc_score(right, after))}
            records.append({"kind": "auc", "model": model, **aucs})
    return records
