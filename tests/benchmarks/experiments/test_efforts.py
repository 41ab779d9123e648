"""Simulated efforts: what is said of them holds for the tables that are made."""

from __future__ import annotations

import numpy as np

from benchmarks.experiments.efforts import EFFORTS, undominated, with_efforts
from tests.samples import make_outcomes

TABLE = make_outcomes(2000, seed=5)


def test_thinking_costs_tokens_and_repairs_what_it_is_said_to() -> None:
    made = {name: with_efforts(TABLE, effort, seed=1) for name, effort in EFFORTS.items()}
    large, none = made["large gain"], made["no gain"]
    assert large.models[:3] == tuple(f"{TABLE.models[0]}@{name}" for name in ("brief", "plain", "think"))
    brief, plain, think = (large.scores[:, place::3] for place in range(3))
    assert np.array_equal(plain, TABLE.scores)
    assert (brief <= plain).all()
    assert think.mean() > plain.mean() + 0.02
    assert (none.scores[:, 2::3] <= TABLE.scores).all(), "thinking that brings nothing repairs nothing"
    assert np.array_equal(none.scores[:, 0::3], brief), "brevity does not depend on what thinking brings"
    assert np.allclose(large.output_tokens[:, 2::3], 4 * TABLE.output_tokens)
    output_usd = TABLE.output_tokens * [price.output_usd_per_million / 1e6 for price in TABLE.price_list()]
    assert np.allclose(large.cost_usd[:, 2::3] - TABLE.cost_usd, 3 * output_usd)


def test_models_that_others_beat_at_no_more_cost_are_left_out() -> None:
    kept = undominated(TABLE)
    score, cost_usd = TABLE.scores.mean(axis=0), TABLE.cost_usd.mean(axis=0)
    assert TABLE.models[int(score.argmax())] in kept
    for j, model in enumerate(TABLE.models):
        assert (model in kept) == (not ((score > score[j]) & (cost_usd <= cost_usd[j])).any())
