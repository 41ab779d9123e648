"""From outcomes to numbers: share of right answers, dollars, mix, latency, and differences at matched spend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apportion.router.arrays import FloatArray
from benchmarks.e2e.client import Outcome

BOOTSTRAPS = 10_000


@dataclass(frozen=True)
class Mixture:
    """The best random mixture of single models at one spend: `dear` with probability `share`, else `cheap`."""

    cheap: str
    dear: str
    share: float


def scores(outcomes: Sequence[Outcome]) -> FloatArray:
    return np.array([outcome.score for outcome in outcomes])


def spend_usd(outcomes: Sequence[Outcome]) -> float:
    """Settled USD a request."""
    return float(np.mean([outcome.cost_usd for outcome in outcomes]))


def best_mixture(singles: dict[str, list[Outcome]], spend: float) -> Mixture:
    """The pair of models whose mixture at this spend has the highest mean score (a point of the convex hull)."""
    cost = {name: spend_usd(outcomes) for name, outcomes in singles.items()}
    score = {name: float(scores(outcomes).mean()) for name, outcomes in singles.items()}
    affordable = [name for name in cost if cost[name] <= spend]
    if not affordable:
        cheapest = min(cost, key=lambda name: cost[name])
        return Mixture(cheapest, cheapest, 0.0)
    candidates = [Mixture(name, name, 0.0) for name in affordable]
    candidates += [
        Mixture(cheap, dear, (spend - cost[cheap]) / (cost[dear] - cost[cheap]))
        for cheap in affordable
        for dear in cost
        if cost[dear] > spend
    ]
    return max(candidates, key=lambda m: (1 - m.share) * score[m.cheap] + m.share * score[m.dear])


def mixture_scores(singles: dict[str, list[Outcome]], mixture: Mixture) -> FloatArray:
    """Each prompt's expected score under the mixture."""
    return (1 - mixture.share) * scores(singles[mixture.cheap]) + mixture.share * scores(singles[mixture.dear])


def difference(a: FloatArray, b: FloatArray, seed: int) -> dict[str, float]:
    """Mean of a - b in points, with the 95 % interval of a bootstrap over prompts (paired)."""
    gap = 100 * (a - b)
    draws = np.random.default_rng(seed).integers(len(gap), size=(BOOTSTRAPS, len(gap)))
    low, high = np.percentile(gap[draws].mean(axis=1), [2.5, 97.5])
    return {"points": float(gap.mean()), "low": float(low), "high": float(high)}


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    latency_ms = 1e3 * np.array([outcome.latency_s for outcome in outcomes])
    mix = Counter(outcome.model for outcome in outcomes)
    batches = {outcome.batch: outcome for outcome in outcomes if outcome.batch >= 0}
    over = [b.batch for b in batches.values() if b.batch_planned_usd > b.batch_cap_usd * (1 + 1e-6)]
    return {
        "right": float(scores(outcomes).mean()),
        "spend_usd_per_1000": 1e3 * spend_usd(outcomes),
        "planned_usd_per_1000": 1e3 * float(np.mean([outcome.planned_usd for outcome in outcomes])),
        "predicted": float(np.mean([outcome.predicted for outcome in outcomes])),
        "mix": {name: count / len(outcomes) for name, count in sorted(mix.items())},
        "latency_ms_p50": float(np.percentile(latency_ms, 50)),
        "latency_ms_p95": float(np.percentile(latency_ms, 95)),
        "batches": len(batches),
        "batches_over_cap": len(over),
        "rungs": dict(Counter(outcome.rung for outcome in outcomes)),
    }


def oracle(singles: dict[str, list[Outcome]]) -> float:
    """Share of prompts that at least one model answers right."""
    return float(np.max([scores(outcomes) for outcomes in singles.values()], axis=0).mean())
