"""A small likeness of a problem: similar requests stand for each other, and the batches become one mean batch.

Its optimum proves nothing about the problem, but its replicas are a good start for the search on all requests, and
take a fraction of the time to find.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apportion.allocation.problem import AllocationProblem
from apportion.router.arrays import FloatArray

SKETCH_REQUESTS = 200
_SEED = 0


def sketch(problem: AllocationProblem, n_requests: int = SKETCH_REQUESTS) -> AllocationProblem:
    """The likeness with at most so many requests; a request's group is found by k-means on success and needs."""
    from sklearn.cluster import KMeans

    scale = np.maximum(problem.tokens.mean(axis=0), 1e-12)
    shape = np.hstack([problem.success, problem.tokens / scale, problem.allowed])
    n_groups = min(n_requests, len(np.unique(shape, axis=0)))
    group = KMeans(n_groups, n_init=1, max_iter=20, random_state=_SEED).fit_predict(shape)
    present, group = np.unique(group, return_inverse=True)
    size = np.bincount(group, problem.weight)

    def mean(values: FloatArray) -> FloatArray:
        total = np.stack([np.bincount(group, problem.weight * column, len(present)) for column in values.T], axis=1)
        return np.asarray(total / size[:, None], np.float64)

    return replace(
        problem,
        success=mean(problem.success),
        cost_usd=mean(problem.cost_usd),
        tokens=mean(problem.tokens),
        all_tokens=mean(problem.all_tokens),
        allowed=mean(problem.allowed.astype(np.float64)) == 1.0,
        batch=np.zeros(len(present), np.int64),
        weight=size / problem.n_batches,
    )
