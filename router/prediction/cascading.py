"""Cascades of an outcomes table's models: what its held-out rows prove, and how an artefact keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from apportion.router.arrays import FloatArray
from apportion.router.calibration import Calibration
from apportion.router.cascade.gate import Gate, HeldOut, Trial, fit_gate
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.posterior import Posterior
from apportion.router.costs import expected_cost
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.artefact import Arrays, CascadesRecord, TrialRecord
from apportion.router.prediction.calibrated import Calibrated, mean_known
from apportion.router.prediction.estimator import FittedEstimator
from apportion.router.prediction.features import Features
from apportion.router.prediction.prediction import Prediction

F = TypeVar("F", bound=FittedEstimator)
_PREFIX = "cascades."
_CALIBRATION = ("temperatures", "bucket_estimates", "bucket_values")


def expected_costs(prediction: Prediction, table: OutcomesTable, known: OutcomesTable) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation (N, M) of what the table's requests are expected to cost, USD; by `known` rows' mean
    costs where lengths or prices are unknown.
    """
    cost, spread = np.full(table.scores.shape, np.nan), np.full(table.scores.shape, np.nan)
    if len(table.prices) == len(table.models):
        # Recorded answers were not cut off, so neither are the expected ones.
        cost, spread = expected_cost(
            prediction.output_tokens, prediction.output_tokens_std, table.input_tokens, table.price_list()
        )
    # Without lengths or prices a model's mean cost is all that is known.
    fallback, fallback_spread = mean_known(known.cost_usd), known.cost_usd.std(axis=0)
    return np.where(np.isfinite(cost), cost, fallback), np.where(np.isfinite(spread), spread, fallback_spread)


def proved(
    fitted: Calibrated[F], features: Features, table: OutcomesTable, known: OutcomesTable, seed: int = 0
) -> Gate | None:
    """What rows that nothing was trained on prove of cascades; None: they have no signals.

    Args:
        known: rows whose mean costs stand where lengths or prices are unknown.
    """
    if table.signals is None:
        return None
    prediction = fitted.predict(features)
    cost_usd, _ = expected_costs(prediction, table, known)
    rows = HeldOut(table.models, prediction.success, cost_usd, table.scores, table.cost_usd, table.signals)
    return fit_gate(rows, seed)


def cascades_record(gate: Gate | None) -> CascadesRecord | None:
    """What an artefact says of its cascades."""
    if gate is None:
        return None
    trials = [
        TrialRecord(first=t.first, second=t.second, gain=t.gain, at_least=t.at_least, taken=t.taken, offered=t.passed)
        for t in gate.trials
    ]
    return CascadesRecord(closed=gate.closed, trials=trials)


def cascades_arrays(pairs: Sequence[Pair]) -> Arrays:
    """What an artefact holds of the pairs, in their order; nothing of none."""
    if not pairs:
        return {}
    arrays = {
        "coefficients": [pair.verifier.coefficients for pair in pairs],
        "spread": [pair.verifier.spread for pair in pairs],
        "shifts": [pair.shifts for pair in pairs],
    }
    arrays |= {name: [getattr(pair.verifier.calibration, name) for pair in pairs] for name in _CALIBRATION}
    return {f"{_PREFIX}{name}": np.stack(rows) for name, rows in arrays.items()}


def restored_gate(record: CascadesRecord | None, arrays: Arrays, models: Sequence[str]) -> Gate | None:
    """The gate of an artefact; pairs and trials of other models are left out."""
    if record is None:
        return None
    offered = [trial for trial in record.trials if trial.offered]
    pairs = [_pair(trial, arrays, row) for row, trial in enumerate(offered)]
    trials = [Trial(t.first, t.second, t.gain, t.at_least, t.taken) for t in record.trials]
    known = set(models)
    return Gate(
        tuple(pair for pair in pairs if {pair.first, pair.second} <= known),
        tuple(trial for trial in trials if {trial.first, trial.second} <= known),
        record.closed,
    )


def _pair(trial: TrialRecord, arrays: Arrays, row: int) -> Pair:
    coefficients, spread, shifts = (arrays[f"{_PREFIX}{name}"][row] for name in ("coefficients", "spread", "shifts"))
    calibration = Calibration(*(arrays[f"{_PREFIX}{name}"][row] for name in _CALIBRATION))
    return Pair(trial.first, trial.second, Posterior(coefficients, calibration, spread), shifts)
