"""Numbers of the moment, from the router's state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from apportion.deployments.observability.catalogue import (
    ASLEEP,
    BREAKER_OPEN,
    BUDGET_LEFT,
    BULK_CASCADES,
    BULK_JOBS,
    BULK_LATE,
    BULK_ROWS,
    BULK_SLOTS,
    BULK_SLOTS_USED,
    COST_RATIO,
    ENGINE_PEAK,
    IN_FLIGHT,
    JUDGED,
    JUDGED_DEVIATION,
    LIMIT_MOST,
    LIMIT_USED,
    OVERRUNS,
    PARTS_UP,
    QUEUE_LENGTH,
    RECORDS_DROPPED,
    REPLICAS,
    RESERVED,
    SLOTS,
    SLOTS_USED,
    SUCCESS_JUDGED,
    SUCCESS_PREDICTED,
    SUCCESS_SHIFT,
    TOKENS_RATIO,
    TROUBLE,
    UP,
)
from apportion.deployments.observability.numbers import Labels, Numbers
from apportion.router.batch.guards.breaker import BreakerState

DRIFT = {
    TOKENS_RATIO: "tokens_ratio",
    COST_RATIO: "cost_ratio",
    SUCCESS_PREDICTED: "success_predicted",
    SUCCESS_SHIFT: "shift",
    JUDGED: "judged",
    SUCCESS_JUDGED: "success_judged",
    JUDGED_DEVIATION: "deviations",
}
"""Metrics by their names in the state."""


def put_state(numbers: Numbers, state: Mapping[str, Any]) -> None:
    """Puts the state's numbers in place of those of before.

    Args:
        state: the router's, as `/health` tells it.
    """
    models: Mapping[str, Any] = state["models"]
    replicas = Counter(one["model"] for one in state["replicas"].values())
    broken = Counter(one["model"] for one in state["replicas"].values() if one["breaker"] != BreakerState.closed)
    budget = state.get("budget", {})
    numbers.put(UP, {(): 1})
    numbers.put(SLOTS, {(name,): one["slots"] for name, one in models.items()})
    numbers.put(SLOTS_USED, {(name,): one["slots"] - one["free_slots"] for name, one in models.items()})
    peaks: dict[Labels, float] = {(name,): 0 for name in models}
    for one in state["replicas"].values():
        peaks[one["model"],] = max(peaks[one["model"],], one["peak"])
    numbers.put(ENGINE_PEAK, peaks)
    numbers.put(REPLICAS, {(name,): replicas[name] for name in models})
    numbers.put(ASLEEP, {(name,): int(one["asleep"]) for name, one in models.items()})
    numbers.put(BREAKER_OPEN, {(name,): broken[name] for name in models})
    troubled = Counter((one["model"], one["trouble"]) for one in state["replicas"].values() if "trouble" in one)
    numbers.put(TROUBLE, dict(troubled))
    numbers.put(IN_FLIGHT, {(): state["in_flight"]})
    limits: Mapping[str, Any] = state["concurrency_limits"]
    numbers.put(LIMIT_MOST, {(name,): one["at_most"] for name, one in limits.items()})
    numbers.put(LIMIT_USED, {(name,): one["in_flight"] for name, one in limits.items()})
    waiting = {
        "slot": state["waiting"],
        "money": state["waiting_for_budget"],
        "model": state["waiting_for_model"],
        "bulk": state["waiting_bulk"],
    }
    numbers.put(QUEUE_LENGTH, {(name,): count for name, count in waiting.items()})
    _put_bulk(numbers, state["bulk"])
    numbers.put(RESERVED, {(): state["reserved_usd"]})
    numbers.put(PARTS_UP, {(name,): int(one == BreakerState.closed) for name, one in state["parts"].items()})
    numbers.put(OVERRUNS, {(): budget.get("overruns", 0)})
    for metric, name in DRIFT.items():
        told = {(model,): one[name] for model, one in state["drift"].items()}
        numbers.put(metric, {labels: value for labels, value in told.items() if value is not None})
    if state["records"] is not None:
        numbers.put(RECORDS_DROPPED, {(kind,): count for kind, count in state["records"]["dropped"].items()})
    numbers.put(BUDGET_LEFT, dict(map(_left, budget.get("limits", ()))))


def _put_bulk(numbers: Numbers, bulk: Mapping[str, Any]) -> None:
    jobs = bulk["jobs"]
    rows = {state: sum(job[state] for job in jobs) for state in ("completed", "failed", "in_flight")}
    rows["left"] = sum(job["total"] for job in jobs) - sum(rows.values())
    late_s = [job["left_s"] - job["time_s"] for job in jobs if job["left_s"] is not None]
    numbers.put(BULK_JOBS, {(status,): count for status, count in Counter(job["status"] for job in jobs).items()})
    numbers.put(BULK_ROWS, {(state,): count for state, count in rows.items()})
    cascades = {state: sum(job[state] for job in jobs) for state in ("first_answers", "asked_on")}
    numbers.put(BULK_CASCADES, {(state,): count for state, count in cascades.items()})
    numbers.put(BULK_SLOTS, {(name,): count for name, count in bulk["slots"].items()})
    numbers.put(BULK_SLOTS_USED, {(name,): count for name, count in bulk["slots_used"].items()})
    numbers.put(BULK_LATE, {(): max([0.0, *late_s])})


def _left(limit: Mapping[str, Any]) -> tuple[Labels, float]:
    whole_usd = limit["usd"]
    left_usd = whole_usd - limit["spent_usd"] - limit["reserved_usd"]
    return (limit["scope"], limit["window"], limit["name"] or ""), max(left_usd / whole_usd, 0.0) if whole_usd else 0.0
