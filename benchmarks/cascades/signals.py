"""Signals of a verifier whose strength is stated, for tables that were recorded without any."""

from __future__ import annotations

import numpy as np

from apportion.router.arrays import FloatArray


def stated(score: FloatArray, auc: float, seed: int) -> FloatArray:
    """(N, M, 4) signals of which the first tells right answers (N, M) from wrong ones with that AUC and the others tell
    nothing: normal among either, whatever the prompt, so that the AUC is beyond what the prompt says.
    """
    from scipy.special import ndtri

    signals = np.random.default_rng([seed, round(100 * auc)]).normal(size=(*score.shape, 4))
    signals[..., 0] += np.sqrt(2) * ndtri(auc) * score
    return signals
