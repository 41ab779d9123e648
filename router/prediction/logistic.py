"""L2-regularised logistic regressions of success on the embedding, one per model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
F32 = NDArray[np.float32]

EDGE = 1e-3
"""Estimate for a model that never succeeded in the rows it was fitted to."""


def logistic_columns(
    embeddings: F32, scores: FloatArray, strength: float, row_weight: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Weights `(D, M)` and biases `(M,)` of the logits of success.

    `scores` `(n, M)` are in [0, 1], NaN where unknown; one between 0 and 1 enters as both outcomes with
    their shares as weights. `strength` is the inverse of the penalty (scikit-learn's C), `row_weight`
    `(n,)` says how often a row counts, as in a bootstrap sample. A model whose rows have one outcome only
    gets a constant.
    """
    weights, biases = np.zeros((embeddings.shape[1], scores.shape[1])), np.zeros(scores.shape[1])
    for column, score in enumerate(scores.T):
        rows = np.flatnonzero(~np.isnan(score) if row_weight is None else ~np.isnan(score) & (row_weight > 0))
        if len(rows):
            count = np.ones(len(rows)) if row_weight is None else row_weight[rows]
            weights[:, column], biases[column] = _one_model(embeddings[rows], score[rows], count, strength)
    return weights, biases


def _one_model(inputs: F32, share: FloatArray, count: FloatArray, strength: float) -> tuple[FloatArray, float]:
    from sklearn.linear_model import LogisticRegression

    labels = np.repeat([1, 0], len(inputs))
    weight = np.concatenate([share * count, (1 - share) * count])
    used = weight > 0
    if len(np.unique(labels[used])) == 1:
        return np.zeros(inputs.shape[1]), float(np.log(EDGE) * (1 - 2 * labels[used][0]))
    model = LogisticRegression(C=strength, max_iter=300)
    model.fit(np.vstack([inputs] * 2)[used], labels[used], sample_weight=weight[used])
    return model.coef_[0], float(model.intercept_[0])
