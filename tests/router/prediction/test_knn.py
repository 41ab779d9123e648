from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from apportion.router.errors import OutcomesTableError
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.features import Features
from apportion.router.prediction.knn import KnnEstimator

RNG = np.random.default_rng(1)


def _features(n: int) -> Features:
    return Features(RNG.normal(size=(n, 8)).astype(np.float32), *np.zeros((2, n, 0), dtype=np.float32))


def _nearest(train: Features, query: np.ndarray, known: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k known ones with the highest cosine, by brute force."""
    cosine = train.embeddings @ query / np.linalg.norm(train.embeddings, axis=1)
    order = np.argsort(-cosine, kind="stable")
    return order[known[order]][:k]


def test_estimates_are_means_over_the_nearest_known_rows(outcomes: OutcomesTable) -> None:
    table = outcomes.subset(np.arange(80))
    scores = np.where(RNG.random(table.scores.shape) < 0.3, np.nan, RNG.random(table.scores.shape))
    table = dataclasses.replace(table, scores=scores)
    train, queries = _features(80), _features(300)
    prediction = KnnEstimator(k=7, members=200).fit(train, table).predict(queries)
    for i in range(0, 300, 29):
        for j in range(3):
            rows = _nearest(train, queries.embeddings[i], ~np.isnan(scores[:, j]), 7)
            assert prediction.success[i, j] == pytest.approx(scores[rows, j].mean(), abs=1e-5)
            assert prediction.output_tokens[i, j] == pytest.approx(table.output_tokens[rows, j].mean(), rel=1e-5)
    assert np.abs(prediction.success_samples.mean(axis=0) - prediction.success).mean() < 0.05
    assert (prediction.success_std > 0.02).mean() > 0.95


def test_added_rows_bring_new_models_and_leave_the_others(outcomes: OutcomesTable) -> None:
    table, train, queries = outcomes.subset(np.arange(60)), _features(60), _features(20)
    fitted = KnnEstimator(k=5).fit(train, table)
    extra = outcomes.subset(np.arange(60, 100)).select_models(["large"])
    extra = dataclasses.replace(extra, models=("new",), prices={})
    grown = fitted.add(_features(40), extra)
    before, after = fitted.predict(queries), grown.predict(queries)
    assert grown.models == ("small", "medium", "large", "new")
    np.testing.assert_array_equal(after.success[:, :3], before.success)
    np.testing.assert_array_equal(after.success_samples[:, :, :3], before.success_samples)
    np.testing.assert_array_equal(after.output_tokens[:, :3], before.output_tokens)
    assert np.isfinite(after.success[:, 3]).all()
    unknown = dataclasses.replace(extra, scores=np.full((40, 1), np.nan))
    with pytest.raises(OutcomesTableError, match=r"no score of \['new'\]"):
        fitted.add(_features(40), unknown)


def test_fewer_rows_than_neighbours_give_their_mean(outcomes: OutcomesTable) -> None:
    table = outcomes.subset([0, 1, 2])
    prediction = KnnEstimator(k=40).fit(_features(3), table).predict(_features(4))
    np.testing.assert_allclose(prediction.success, np.broadcast_to(table.scores.mean(axis=0), (4, 3)), atol=1e-6)
