"""Small plans by hand."""

from __future__ import annotations

from typing import Any

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.replica import Profile, ReplicaType
from apportion.router.prices import ModelPrice

SMALL_THIRD = ReplicaType("small", "H100", 0.3)
SMALL_HALF = ReplicaType("small", "H100", 0.5)
MIDDLE = ReplicaType("middle", "H100", 0.6)
HUGE = ReplicaType("huge", "H100", 1.0, 4)

PLACES = (
    (SMALL_THIRD, "a-0", (0,)),
    (MIDDLE, "a-0", (0,)),
    (SMALL_THIRD, "a-0", (1,)),
    (SMALL_THIRD, "a-0", (1,)),
    (HUGE, "a-1", (0, 1, 2, 3)),
    (SMALL_HALF, "a-1", (4,)),
    (SMALL_THIRD, "a-1", (4,)),
)


def profile(replica: ReplicaType, weights_gib: float, kv_cache_gib: float, **changes: Any) -> Profile:
    values = {"max_num_seqs": 32, "tokens_per_s": 1000.0, "prefill_tokens_per_s": 10_000.0, "first_token_s": 0.05}
    return Profile(
        replica, True, **(values | changes), weights_gib=weights_gib, kv_cache_gib=kv_cache_gib, source="computed"
    )


def plan_of(
    places: tuple[tuple[ReplicaType, str, tuple[int, ...]], ...] = PLACES,
    profiles: tuple[Profile, ...] | None = None,
    **changes: Any,
) -> Plan:
    specs = (
        ModelSpec("small", "org/small", ModelPrice(0.02, 0.06), max_model_len=4096),
        ModelSpec("middle", "org/middle", ModelPrice(0.05, 0.1), max_model_len=8192, quantisation="fp8"),
        ModelSpec("large", "org/large", ModelPrice(0.4, 0.8), max_model_len=16384),
        ModelSpec("huge", "org/huge", ModelPrice(1.0, 3.0), max_model_len=16384),
    )
    known = profiles or (
        profile(SMALL_THIRD, 3.0, 16.0),
        profile(SMALL_HALF, 3.0, 30.0),
        profile(MIDDLE, 9.0, 30.0),
        profile(HUGE, 136.0, 140.0),
    )
    values = {
        "cluster": Cluster((Node("a-0", "H100", 8), Node("a-1", "H100", 8)), GPU_TYPES),
        "models": specs,
        "profiles": known,
        "placements": tuple(PlacedReplica(*place) for place in places),
        "loads": (),
        "expected_quality": 0.7,
        "expected_cost_usd": 1e-4,
        "objective": 0.7,
        "bound": 0.7,
        "gap": 0.0,
        "budget_usd": None,
        "rate_per_s": 10.0,
        "batch_size": 32,
    }
    return Plan(**(values | changes))
