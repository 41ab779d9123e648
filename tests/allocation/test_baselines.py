from __future__ import annotations

from collections import Counter

from apportion.allocation.near import Room
from apportion.allocation.plan import PlacedReplica
from apportion.allocation.problem import Requirements
from apportion.allocation.replica import ReplicaType
from benchmarks.allocation.baselines import greedy, proportional, uniform
from tests.allocation.instances import cluster, problem


def gpus_of(replicas: Counter[ReplicaType], model: str) -> float:
    return sum(r.gpus * n for r, n in replicas.items() if r.model == model)


def test_baselines_fill_the_gpus_as_they_say() -> None:
    on = cluster(3, 4)
    given = problem(Requirements(budget_usd=1e-4), on=on, rate_per_s=60.0)
    alike, demanded, grown = uniform(given), proportional(given), greedy(given)
    assert [gpus_of(alike, model) for model in ("small", "mid", "large")] == [4.0, 4.0, 4.0]
    assert gpus_of(demanded, "small") > gpus_of(demanded, "large")
    for replicas in (alike, demanded, grown):
        room = Room(on, ())
        for replica in sorted(replicas.elements(), key=lambda r: -r.gpus):
            spot = room.find(replica)
            assert spot is not None
            room.add(PlacedReplica(replica, *spot))


def test_models_without_demand_get_nothing() -> None:
    poor = problem(Requirements(budget_usd=2.8e-5), on=cluster(1, 4), rate_per_s=1.0, size=20, count=2)
    assert gpus_of(proportional(poor), "large") == 0
