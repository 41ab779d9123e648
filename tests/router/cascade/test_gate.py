"""The gate: shut where signals say nothing, open where they say much, and honest about why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apportion.router.cascade.gate import FEWEST_ROWS, MOST_PAIRS, fit_gate, matched_gains
from tests.router.cascade.made import held_out


def test_a_verifier_that_knows_nothing_hardly_ever_opens_it() -> None:
    opened = sum(bool(fit_gate(held_out(seed, 0.5, models=2), seed).pairs) for seed in range(200))

    assert opened <= 2


def test_a_good_verifier_opens_it_and_fresh_requests_gain() -> None:
    gate = fit_gate(held_out(0, 0.9, n=1_200))

    assert 1 <= len(gate.pairs) <= MOST_PAIRS
    assert [(pair.first, pair.second) for pair in gate.pairs] == [
        (trial.first, trial.second) for trial in gate.trials if trial.passed
    ]
    again = {(t.first, t.second): t for t in fit_gate(held_out(1, 0.9, n=8_000)).trials}
    first = gate.trials[0]
    assert again[first.first, first.second].gain > 0.01
    assert "at equal spend it gains +" in gate.sentences[0]


def test_few_rows_and_unknown_outcomes_keep_it_shut() -> None:
    rows = held_out(0, 0.9, n=400)
    scores = rows.scores.copy()
    scores[FEWEST_ROWS - 1 :, 1] = np.nan

    gate = fit_gate(replace(rows, scores=scores))

    assert gate.pairs == ()
    assert gate.sentences == ["no cascades: 99 held-out requests have all outcomes, 100 are needed"]


def test_without_signals_or_prices_there_is_nothing_to_try() -> None:
    rows = held_out(0, 0.9)
    for without in (
        replace(rows, signals=np.full(rows.signals.shape, np.nan)),
        replace(rows, paid_usd=np.zeros_like(rows.paid_usd)),
    ):
        gate = fit_gate(without)
        assert gate.pairs == gate.trials == ()
        assert "no model that costs less than another" in gate.sentences[0]


def test_gains_are_at_the_same_spend() -> None:
    # Routing buys 0.5 of score for 1 USD; the other way has the same scores for half of that.
    score = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    paid_usd = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])

    gains = matched_gains(score, paid_usd, score, paid_usd / 2, np.array([0.5, 0.8]))

    assert gains == pytest.approx([np.mean([0.25, 0.4])] * 2)
    dearer = matched_gains(score, paid_usd, score, paid_usd + 5, np.array([0.5]))
    assert dearer.tolist() == [0.0, 0.0]
