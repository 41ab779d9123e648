from __future__ import annotations

import numpy as np

from router.prediction.logistic import EDGE, logistic_columns


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 4)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(inputs @ np.array([[2.0, 0], [0, 2], [0, 0], [1, 1]]))))
    return inputs, (rng.random((200, 2)) < chance).astype(float)


def test_a_weight_counts_a_row_as_often_as_it_says() -> None:
    inputs, scores = _data()
    draws = np.random.default_rng(1).integers(0, 3, 200)
    weighted = logistic_columns(inputs, scores, 1.0, draws)
    repeated = logistic_columns(np.repeat(inputs, draws, axis=0), np.repeat(scores, draws, axis=0), 1.0)
    np.testing.assert_allclose(weighted[0], repeated[0], atol=2e-3)
    np.testing.assert_allclose(weighted[1], repeated[1], atol=2e-3)
    assert weighted[0][0, 0] > 1 > abs(weighted[0][2, 0])


def test_unknown_scores_stay_out_and_shares_count_as_both_outcomes() -> None:
    inputs, scores = _data()
    holes = scores.copy()
    holes[:50, 0] = np.nan
    weights, _ = logistic_columns(inputs, holes, 1.0)
    alone, _ = logistic_columns(inputs[50:], scores[50:], 1.0)
    np.testing.assert_allclose(weights[:, 0], alone[:, 0], atol=1e-6)
    halves = np.full((200, 1), 0.5)
    weights, bias = logistic_columns(inputs, halves, 1.0)
    np.testing.assert_allclose([*weights[:, 0], *bias], 0.0, atol=1e-6)


def test_one_outcome_alone_gives_a_constant() -> None:
    inputs, _ = _data()
    weights, bias = logistic_columns(inputs, np.column_stack([np.ones(200), np.zeros(200)]), 1.0)
    assert not weights.any()
    np.testing.assert_allclose(bias, [-np.log(EDGE), np.log(EDGE)])
