"""From answers to numbers: rates, percentiles, and goodput under a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.load.chat import Answer

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Target:
    """What a user would call fast enough; a streamed answer must keep both, another the latency alone."""

    first_token_s: float
    latency_s: float

    def met(self, answer: Answer) -> bool:
        if answer.error or answer.latency_s > self.latency_s:
            return False
        return answer.first_token_s is None or answer.first_token_s <= self.first_token_s


def percentiles_ms(values_s: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 in milliseconds; None where nothing was measured."""
    if not values_s:
        return None
    found = 1e3 * np.percentile(values_s, PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}


def summary(answers: Sequence[Answer], seconds: float, target: Target) -> dict[str, Any]:
    """One measured round. Rates count complete answers only; latencies too, so read them together with `errors`."""
    good = [answer for answer in answers if not answer.error]
    costs = [answer.cost_usd for answer in good if answer.cost_usd is not None]
    return {
        "requests": len(answers),
        "errors": len(answers) - len(good),
        "error_examples": sorted({answer.error for answer in answers if answer.error})[:3],
        "seconds": seconds,
        "requests_per_s": len(good) / seconds,
        "output_tokens_per_s": sum(answer.output_tokens for answer in good) / seconds,
        "goodput_per_s": sum(target.met(answer) for answer in answers) / seconds,
        "latency_ms": percentiles_ms([answer.latency_s for answer in good]),
        "first_token_ms": percentiles_ms([a.first_token_s for a in good if a.first_token_s is not None]),
        "between_tokens_ms": percentiles_ms([gap for answer in good for gap in answer.gaps_s]),
        "settled_usd": float(sum(costs)),
        "settled_answers": len(costs),
        "mix": mix(answers),
    }


def mix(answers: Sequence[Answer]) -> dict[str, int]:
    """Complete answers by model."""
    return dict(sorted(Counter(answer.model for answer in answers if not answer.error).items()))


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds of one case as one: medians of rates and percentiles, sums of counts."""
    first = rounds[0]
    merged: dict[str, Any] = {}
    for key in first:
        values = [one[key] for one in rounds if one[key] is not None]
        if key == "mix":
            merged[key] = dict(sum((Counter(one) for one in values), Counter()))
        elif key == "error_examples":
            merged[key] = sorted({example for one in values for example in one})[:3]
        elif key in {"requests", "errors", "seconds", "settled_usd", "settled_answers"}:
            merged[key] = sum(values)
        elif values and isinstance(values[0], dict):
            names = sorted({name for one in values for name in one})
            merged[key] = {name: median([one.get(name, 0.0) for one in values]) for name in names}
        else:
            merged[key] = median(values) if values else None
    return merged


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def ratio_range(ratios: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of paired ratios, one a round: a handful of rounds supports no interval."""
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
