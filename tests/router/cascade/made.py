"""Made outcomes with signals of a stated strength."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, ndtri

from apportion.router.cascade.gate import HeldOut
from apportion.router.cascade.pair import Pair
from apportion.router.cascade.posterior import Posterior

SKILL = np.array([-0.3, 0.5, 1.6])
COST_USD = np.array([1e-4, 4e-4, 1.5e-3])
MODELS = ("small", "middle", "large")


def signals_of(scores: np.ndarray, auc: float, rng: np.random.Generator) -> np.ndarray:
    """(..., 4): the first tells right answers from wrong ones with that AUC, the others nothing."""
    signals = rng.normal(size=(*scores.shape, 4))
    signals[..., 0] += np.sqrt(2) * ndtri(auc) * scores
    return signals


def held_out(seed: int, auc: float, n: int = 300, models: int = 3) -> HeldOut:
    """Requests of which most of the difficulty is known beforehand; the same requests are hard for all models."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 1.5, (n, 1))
    chosen = [0, 2] if models == 2 else [0, 1, 2]
    scores = (rng.random((n, len(chosen))) < expit(SKILL[chosen] - hard)).astype(float)
    cost_usd = np.tile(COST_USD[chosen], (n, 1))
    return HeldOut(
        models=tuple(MODELS[j] for j in chosen),
        success=expit(0.85 * (SKILL[chosen] - 0.8 * hard)),
        cost_usd=cost_usd,
        scores=scores,
        paid_usd=cost_usd * rng.lognormal(0, 0.3, cost_usd.shape),
        signals=signals_of(scores, auc, rng),
    )


def pair_of(rows: HeldOut, first: int, second: int) -> Pair:
    """The pair that these rows teach."""
    posterior = Posterior.fit(rows.success[:, first], rows.signals[:, first], rows.scores[:, first])
    names = rows.models[first], rows.models[second]
    return Pair.fit(*names, posterior, rows.success[:, second], rows.scores[:, [first, second]])
