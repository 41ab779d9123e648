"""How many replicas are needed, by what those that there are say is taken of them.

Requests do not pass through Serve, so the queues that its own policy looks at are always empty: engines report how full
they are, predictors how much of the time they work (`record_autoscaling_stats`), and this policy reads that.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Protocol

from ray.serve.config import AutoscalingContext

USED = "used"
# Of a replica: fuller than this, another replica is started before requests have to wait.
TARGET = 0.7
_POLICY = f"{__name__}:replicas_for_use"


class Scaled(Protocol):
    """What has a number of replicas, or a least and a largest one."""

    @property
    def num_replicas(self) -> int: ...
    @property
    def min_replicas(self) -> int | None: ...


def autoscaling_options(scaled: Scaled, downscale_to_zero_delay_s: float | None = None) -> dict[str, Any]:
    """Options of a deployment: a fixed number of replicas, or bounds and the policy.

    Args:
        downscale_to_zero_delay_s: where it may have none, the last one stops after so long without use.
    """
    if scaled.min_replicas is None:
        return {"num_replicas": scaled.num_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaled.min_replicas,
            "max_replicas": scaled.num_replicas,
            "downscale_to_zero_delay_s": downscale_to_zero_delay_s,
            "policy": {"policy_function": _POLICY},
        }
    }


def replicas_for_use(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy: so many replicas that what is used now, as shares of one, fills them to TARGET.

    Serve keeps the answer within its bounds, and starts the first replica of a deployment that has none by itself,
    when a call waits for one (`deployments/control/waker.py`).
    """
    shares = (context.aggregated_metrics or {}).get(USED) or {}
    if not shares:  # replicas that have not reported yet say nothing about the load
        return context.target_num_replicas, {}
    return ceil(sum(shares.values()) / TARGET - 1e-9), {}
