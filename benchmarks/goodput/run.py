"""Plays every load under every policy, seed by seed on the same requests."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.goodput.engines import SLOTS, SPEEDS, capacity_per_s
from benchmarks.goodput.play import NAMES, Load, Played, play
from benchmarks.stamp import stamp

TARGET_S = 8.0
LOADS = (0.3, 0.6, 0.9)  # of what all engines answer with every slot taken
MEAN_TOKENS = 140.0, 275.0  # of prompts and answers
BUDGET_USD = 4e-4  # a request: about half of what is spent without a limit
TIGHT_USD = 2.5e-4  # with which arms that spend more can be compared at what the others spend
PLAIN, SPARING = "by success", "by success, half the money"
ARMS: dict[str, dict[str, float]] = {
    PLAIN: {},
    "max_seconds": {"max_seconds": TARGET_S},
    "weight 0.03": {"latency_weight_per_s": 0.03},
    "weight 0.1": {"latency_weight_per_s": 0.1},
    SPARING: {"budget_usd_per_request": BUDGET_USD},
    "half the money, max_seconds": {"budget_usd_per_request": BUDGET_USD, "max_seconds": TARGET_S},
    "half the money, weight 0.03": {"budget_usd_per_request": BUDGET_USD, "latency_weight_per_s": 0.03},
    "less money, max_seconds": {"budget_usd_per_request": TIGHT_USD, "max_seconds": TARGET_S},
    "less money, weight 0.03": {"budget_usd_per_request": TIGHT_USD, "latency_weight_per_s": 0.03},
}


def run(seconds: float, seeds: int, console: Console) -> dict[str, Any]:
    """Shares and rates of requests within the target, with quality and money beside them.

    Args:
        seconds: of virtual time, in which requests come.
    """
    began_s = time.monotonic()
    records = []
    for seed in range(seeds):
        for share in LOADS:
            load = Load.draw(share * capacity_per_s(*MEAN_TOKENS), seconds, seed)
            for arm, routing in ARMS.items():
                records.append({"load": share, "arm": arm, "seed": seed, **_numbers(play(load, **routing), load)})
        console.print(f"seed {seed + 1} of {seeds}")
    settings = {"window_s": seconds, "seeds": seeds, "target_s": TARGET_S, "budget_usd": BUDGET_USD, "slots": SLOTS}
    return {
        "stamp": stamp(**settings, engines="simulated", work_s=round(time.monotonic() - began_s)),
        "speeds": {name: asdict(speed) for name, speed in SPEEDS.items()},
        "records": records,
    }


def _numbers(played: Played, load: Load) -> dict[str, Any]:
    seconds, success = np.array(played.seconds), np.array(played.success)
    count = len(seconds) + played.refused
    in_time = seconds <= TARGET_S
    p50, p95 = np.percentile(seconds, [50, 95])
    rate_per_s = len(load.arrivals_s) / load.arrivals_s[-1]
    return {
        "requests": count,
        "refused": played.refused,
        "in_time": float(in_time.sum() / count),
        "goodput_per_s": float(rate_per_s * in_time.sum() / count),
        "success": float(success.sum() / count),
        "right_in_time": float((success * in_time).sum() / count),
        "p50_s": float(p50),
        "p95_s": float(p95),
        "usd_per_1000": 1e3 * float(np.mean(played.cost_usd)),
        "mix": dict(zip(NAMES, np.bincount(played.models, minlength=len(NAMES)).tolist(), strict=True)),
    }
