"""The policy that reads what engines report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig

from apportion.deployments.cluster.autoscaling import USED, autoscaling_options, replicas_for_use
from apportion.deployments.config.replica_groups import ReplicaGroup
from apportion.deployments.config.service import PredictorConfig
from apportion.deployments.control.busy import Busy
from tests.router.batch.plain_room import Clock


def decide(shares: dict[str, float] | None, target: int = 2) -> int:
    metrics: dict[str, Any] = {} if shares is None else {USED: shares}
    context: Any = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=target)
    return replicas_for_use(context)[0]


@pytest.mark.parametrize(
    ("shares", "replicas"),
    [
        ({"a": 0.0, "b": 0.0}, 0),  # Serve raises it to the lower bound
        ({"a": 0.3, "b": 0.3}, 1),
        ({"a": 0.7, "b": 0.7}, 2),
        ({"a": 0.9, "b": 0.9}, 3),
        ({"a": 2.0}, 3),
    ],
)
def test_slots_in_use_decide(shares: dict[str, float], replicas: int) -> None:
    assert decide(shares) == replicas


def test_silence_changes_nothing() -> None:
    assert decide(None, target=5) == 5


def test_serve_takes_the_bounds_and_finds_the_policy() -> None:
    options = autoscaling_options(ReplicaGroup(name="g", num_replicas=4, min_replicas=2))
    config = AutoscalingConfig(**options["autoscaling_config"])
    assert (config.min_replicas, config.max_replicas) == (2, 4)
    config.policy.serialize_policy()
    assert config.policy.get_policy()(
        SimpleNamespace(aggregated_metrics={USED: {"a": 1.0}}, target_num_replicas=1)
    ) == (2, {})


def test_a_group_that_may_sleep_says_after_how_long() -> None:
    group = ReplicaGroup(name="g", min_replicas=0, downscale_to_zero_delay_s=90)
    config = AutoscalingConfig(**autoscaling_options(group, group.downscale_to_zero_delay_s)["autoscaling_config"])
    assert (config.min_replicas, config.max_replicas, config.downscale_to_zero_delay_s) == (0, 1, 90)
    with pytest.raises(ValueError, match="downscale_to_zero_delay_s"):
        ReplicaGroup(name="g", min_replicas=0, downscale_to_zero_delay_s=5)


def test_without_bounds_the_number_is_fixed() -> None:
    assert autoscaling_options(ReplicaGroup(name="g", num_replicas=3)) == {"num_replicas": 3}


def test_a_predictor_is_scaled_by_the_time_in_which_it_works() -> None:
    clock = Clock()
    busy = Busy(clock)
    clock.now_s += 2
    with busy.work(), busy.work():
        clock.now_s += 3
        assert busy.share() == pytest.approx(0.6)
        clock.now_s += 1
    clock.now_s += 3
    assert busy.share() == pytest.approx(0.25)
    assert busy.share() == 0.0
    config = PredictorConfig(artefact="zoo:predictor", num_replicas=4, min_replicas=2)
    assert autoscaling_options(config)["autoscaling_config"]["max_replicas"] == 4
    assert autoscaling_options(config.model_copy(update={"min_replicas": None})) == {"num_replicas": 4}
    with pytest.raises(ValueError, match="min_replicas 5 is above num_replicas 4"):
        PredictorConfig(artefact="zoo:predictor", num_replicas=4, min_replicas=5)
