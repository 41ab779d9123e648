"""Estimators to compare with: logistic regression and boosted trees, on the embeddings alone.

They are baselines of the benchmarks, as published routers use them, and no artefact holds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apportion.router.arrays import FloatArray, IntArray
from apportion.router.outcomes.table import OutcomesTable
from apportion.router.prediction.estimator import Steps
from apportion.router.prediction.features import Features
from apportion.router.prediction.prediction import Prediction

F32 = NDArray[np.float32]
Rows = IntArray

_RIDGE = 1.0
_EDGE = 1e-3


@dataclass(frozen=True)
class LogisticEstimator:
    """One L2-regularised logistic regression per model; strength by validation log loss out of `strengths`.

    Scores between 0 and 1 enter as both outcomes with their shares as weights. `members` bootstrap refits
    give the spread; with one there is none.
    """

    strengths: tuple[float, ...] = (0.3, 1.0, 3.0)
    members: int = 1

    def fit(
        self,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> FittedBaseline:
        """Fit; raises OutcomesTableError when a model has no score in the rows."""
        table.require_scores()
        held_out = validation[0].embeddings, validation[1].scores
        losses = [
            _log_loss(_logistic(features.embeddings, table.scores, strength)(held_out[0]), held_out[1])
            for strength in self.strengths
        ]
        best = self.strengths[int(np.argmin(losses))]

        def refit(rows: Rows) -> Callable[[F32], FloatArray]:
            return _logistic(features.embeddings[rows], table.scores[rows], best)

        return _baseline(refit, self.members, features, table, seed)


@dataclass(frozen=True)
class BoostedTreesEstimator:
    """Histogram gradient boosting on [model, query embedding], all models in one ensemble of trees.

    The model is a categorical feature, the embedding is reduced to `components` principal components.
    `members` bootstrap refits give the spread; with one there is none.
    """

    components: int = 64
    iterations: int = 150
    learning_rate: float = 0.06
    members: int = 1

    def fit(
        self,
        features: Features,
        table: OutcomesTable,
        validation: tuple[Features, OutcomesTable],
        seed: int = 0,
        progress: Steps | None = None,
    ) -> FittedBaseline:
        """Fit; raises OutcomesTableError when a model has no score in the rows. `validation` is not used, nor
        `progress`.
        """
        from sklearn.decomposition import PCA

        table.require_scores()
        components = min(self.components, *features.embeddings.shape)
        projection = PCA(components, random_state=seed).fit(features.embeddings)
        reduced = projection.transform(features.embeddings)

        def refit(rows: Rows) -> Callable[[F32], FloatArray]:
            trees = self._trees(reduced[rows], table.scores[rows], seed)

            def predict(embeddings: F32) -> FloatArray:
                n_models = len(table.models)
                pairs = _pairs(projection.transform(embeddings), n_models)
                return np.asarray(np.clip(trees.predict(pairs).reshape(-1, n_models), _EDGE, 1 - _EDGE))

            return predict

        return _baseline(refit, self.members, features, table, seed)

    def _trees(self, reduced: FloatArray, scores: FloatArray, seed: int):  # type: ignore[no-untyped-def]
        from sklearn.ensemble import HistGradientBoostingRegressor

        known = ~np.isnan(scores).ravel()
        trees = HistGradientBoostingRegressor(
            learning_rate=self.learning_rate,
            max_iter=self.iterations,
            categorical_features=[0],
            early_stopping=False,
            random_state=seed,
        )
        return trees.fit(_pairs(reduced, scores.shape[1])[known], scores.ravel()[known])


@dataclass(frozen=True)
class FittedBaseline:
    """Members that predict success, and a ridge regression of log output tokens."""

    models: tuple[str, ...]
    members: tuple[Callable[[F32], FloatArray], ...]
    token_weights: FloatArray
    token_factor: FloatArray
    token_spread: FloatArray

    def predict(self, features: Features) -> Prediction:
        """Outcomes of N requests."""
        samples = np.stack([member(features.embeddings) for member in self.members])
        tokens = _typical_tokens(features.embeddings, self.token_weights) * self.token_factor
        return Prediction.from_samples(samples, tokens, tokens * self.token_spread)


def _baseline(
    refit: Callable[[Rows], Callable[[F32], FloatArray]],
    members: int,
    features: Features,
    table: OutcomesTable,
    seed: int,
) -> FittedBaseline:
    rows, rng = np.arange(len(table)), np.random.default_rng(seed)
    draws = [rows] if members == 1 else [rng.choice(rows, len(rows)) for _ in range(members)]
    weights = _token_ridge(features.embeddings, table.output_tokens)
    typical = _typical_tokens(features.embeddings, weights)
    known = ~np.isnan(table.output_tokens)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.nansum(table.output_tokens, axis=0) / np.where(known, typical, 0).sum(axis=0)
        relative = np.where(known, table.output_tokens / (typical * factor) - 1, 0)
        spread = np.sqrt((relative**2).sum(axis=0) / known.sum(axis=0))
    return FittedBaseline(table.models, tuple(map(refit, draws)), weights, factor, spread)


def _logistic(embeddings: F32, scores: FloatArray, strength: float) -> Callable[[F32], FloatArray]:
    from sklearn.linear_model import LogisticRegression

    columns = []
    for column in scores.T:
        known = np.flatnonzero(~np.isnan(column))
        share = column[known]
        inputs = np.vstack([embeddings[known]] * 2)
        labels = np.repeat([1, 0], len(known))
        weights = np.concatenate([share, 1 - share])
        used = weights > 0
        if len(np.unique(labels[used])) == 1:
            columns.append((np.zeros(embeddings.shape[1]), np.log(_EDGE) * (1 - 2 * labels[used][0])))
            continue
        model = LogisticRegression(C=strength, max_iter=300)
        model.fit(inputs[used], labels[used], sample_weight=weights[used])
        columns.append((model.coef_[0], float(model.intercept_[0])))
    weight, bias = np.column_stack([c[0] for c in columns]), np.array([c[1] for c in columns])

    def predict(inputs: F32) -> FloatArray:
        return np.asarray(1 / (1 + np.exp(-(inputs @ weight + bias))))

    return predict


def _pairs(reduced: FloatArray, n_models: int) -> FloatArray:
    """Every request with every model: the model's index, then the reduced embedding; `(n * n_models, 1 +
    c)`.
    """
    models = np.tile(np.arange(n_models), len(reduced))[:, None]
    return np.hstack([models, np.repeat(reduced, n_models, axis=0)])


def _token_ridge(embeddings: F32, output_tokens: FloatArray) -> FloatArray:
    """Weights `(D + 1, M)` of log tokens, each column from the rows whose length is known."""
    inputs = _with_one(embeddings)
    logs = np.log(np.maximum(output_tokens, 1.0))
    weights = np.zeros((inputs.shape[1], logs.shape[1]))
    penalty = np.diag([*np.full(embeddings.shape[1], _RIDGE), 0.0])
    for column, target in enumerate(logs.T):
        known = ~np.isnan(target)
        rows = inputs[known]
        if len(rows):
            weights[:, column] = np.linalg.solve(rows.T @ rows + penalty, rows.T @ target[known])
    return weights


def _typical_tokens(embeddings: F32, weights: FloatArray) -> FloatArray:
    return np.asarray(np.exp(np.clip(_with_one(embeddings) @ weights, 0.0, 16.0)))


def _with_one(embeddings: F32) -> FloatArray:
    return np.column_stack([embeddings.astype(np.float64), np.ones(len(embeddings))])


def _log_loss(success: FloatArray, scores: FloatArray) -> float:
    p = np.clip(success, _EDGE, 1 - _EDGE)
    return float(-np.nanmean(scores * np.log(p) + (1 - scores) * np.log(1 - p)))
