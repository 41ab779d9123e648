"""How many replicas a group needs, by the slots that its engines say are taken.

Requests do not pass through Serve, so the queues that its own policy looks at are always empty: engines report how
full they are (`Engine.record_autoscaling_stats`), and this policy reads that.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from ray.serve.config import AutoscalingContext

from apportion.deployments.config.models import ReplicaGroup

USED_SLOTS = "used_slots"
# Of the slots: fuller than this, another replica is started before requests have to wait.
TARGET = 0.7
_POLICY = f"{__name__}:replicas_for_used_slots"


def autoscaling_options(group: ReplicaGroup) -> dict[str, Any]:
    """Options of the group's deployment: a fixed number of replicas, or bounds and the policy."""
    if group.min_replicas is None:
        return {"num_replicas": group.num_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": group.min_replicas,
            "max_replicas": group.num_replicas,
            "policy": {"policy_function": _POLICY},
        }
    }


def replicas_for_used_slots(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy: so many replicas that the slots taken now, as shares of a replica's, fill them to TARGET.

    Serve keeps the answer within the group's bounds.
    """
    shares = (context.aggregated_metrics or {}).get(USED_SLOTS) or {}
    if not shares:  # replicas that have not reported yet say nothing about the load
        return context.target_num_replicas, {}
    return ceil(sum(shares.values()) / TARGET - 1e-9), {}
