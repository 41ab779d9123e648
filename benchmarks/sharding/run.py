"""Plays batches of the same requests for one Router and for several, in periods that are alike but not the same."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.console import Console

from apportion.router.arrays import IntArray
from benchmarks.sharding.shares import (
    UNSERVED,
    Share,
    between,
    equal,
    in_proportion,
    lent,
    plan,
    planned_apart,
    priced,
)
from benchmarks.sharding.traffic import ACCOUNTS, SOURCES, Period
from benchmarks.stamp import stamp

SHARDS = (2, 4, 8, 16)
# Slots over requests, and where between the cheapest and the best choice the money lies.
LIMITS = {"money": (3.0, 0.4), "slots": (1.05, np.inf), "both": (1.05, 0.4)}


def run(requests: int, seeds: int, console: Console) -> dict[str, Any]:
    """What several Routers lose against one.

    Args:
        requests: of a period, over all Routers.
    """
    began_s = time.monotonic()
    records = []
    for seed in range(seeds):
        for source in SOURCES:
            records += one_seed(source, requests, seed)
        console.print(f"seed {seed + 1} of {seeds}")
    settings = {"requests": requests, "seeds": seeds, "accounts": ACCOUNTS}
    return {"stamp": stamp(**settings, work_s=round(time.monotonic() - began_s)), "records": records}


def one_seed(source: str, requests: int, seed: int) -> list[dict[str, Any]]:
    """All limits, numbers of Routers and shares on the same two periods; shares are of what the first has needed."""
    rng = np.random.default_rng([seed, len(source)])
    traffic = SOURCES[source](rng)
    last, now = traffic.draw(requests), traffic.draw(requests)
    owner = {count: rng.integers(count, size=ACCOUNTS) for count in SHARDS}
    records = []
    for limits in LIMITS:
        whole = _whole(now, *LIMITS[limits])
        joint, _ = plan(now.problem(whole.slots, whole.usd))
        before, prices = plan(last.problem(whole.slots, whole.usd))
        at_prices = {} if prices is None else {"prices of the last plan, all lent": priced(now, whole, prices)}
        best = _worth(now, joint)
        for count in SHARDS:
            for arm, model in (_arms(now, last, owner[count], count, whole, before) | at_prices).items():
                records.append(
                    {
                        "source": source,
                        "limits": limits,
                        "routers": count,
                        "arm": arm,
                        "seed": seed,
                        "loss": 1 - _worth(now, model) / best,
                        "unserved": float((model == UNSERVED).mean() - (joint == UNSERVED).mean()),
                    }
                )
    return records


def _arms(
    now: Period, last: Period, owner: IntArray, count: int, whole: Share, before: IntArray
) -> dict[str, IntArray]:
    shard, was = owner[now.account], owner[last.account]
    load = np.bincount(was, minlength=count).astype(float)
    by_load = planned_apart(now, shard, in_proportion(whole, np.repeat(load[:, None], len(whole.slots), axis=1), load))
    needed, spent = np.zeros((count, len(whole.slots))), np.zeros(count)
    served = np.flatnonzero(before != UNSERVED)
    np.add.at(needed, (was[served], before[served]), 1.0)
    np.add.at(spent, was[served], last.cost_usd[served, before[served]])
    return {
        "equal shares": planned_apart(now, shard, equal(whole, count)),
        "shares by load": by_load,
        "by load, rest lent": lent(now, whole, by_load),
        "by the last plan, rest lent": lent(now, whole, planned_apart(now, shard, in_proportion(whole, needed, spent))),
    }


def _whole(period: Period, slots_share: float, budget_share: float) -> Share:
    n, m = period.success.shape
    slots = np.full(m, int(np.ceil(n / m * slots_share)))
    return Share(slots, between(period, slots, budget_share))


def _worth(period: Period, model: IntArray) -> float:
    served = np.flatnonzero(model != UNSERVED)
    return float(period.success[served, model[served]].sum())
