"""Placing near what runs: evictions are few, groups of GPUs find room, nothing moves without need."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from apportion.allocation.near import moves_between
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.planner import PlanOptions, make_plan
from apportion.allocation.problem import Requirements
from apportion.allocation.replica import ReplicaType
from tests.allocation.instances import cluster, profile, specs, workload

HALF = ReplicaType("small", "gpu", 0.5)
QUARTER = ReplicaType("small", "gpu", 0.25)
WHOLE = ReplicaType("mid", "gpu", 1.0)
PAIR = ReplicaType("large", "gpu", 1.0, 2)
PROFILES = tuple(profile(r.model, r.gpu_fraction, r.tensor_parallel, 40, 1e5) for r in (HALF, QUARTER, WHOLE, PAIR))


def planned(running: list[PlacedReplica], wanted: dict[ReplicaType, int], n_gpus: int) -> Plan:
    """The plan for exactly these replicas."""
    numbers = Counter({r.model: n for r, n in wanted.items()})
    limits = {
        name: {"min_replicas": numbers[name], "max_replicas": numbers[name]} for name in ("small", "mid", "large")
    }
    offered = [p for p in PROFILES if p.replica in wanted]
    options = PlanOptions(Requirements(move_price=1e-3), batch_size=20, n_batches=2)
    return make_plan(cluster(1, n_gpus), specs(**limits), offered, workload(100), options, running=running).plan


def test_one_of_two_halves_makes_room_for_a_whole_gpu() -> None:
    running = [PlacedReplica(HALF, "node-0", (0,)), PlacedReplica(HALF, "node-0", (1,))]
    after = planned(running, {HALF: 2, WHOLE: 1}, n_gpus=2)
    moves = moves_between(running, after.placements)
    assert (len(moves.stopped), len(moves.started)) == (1, 2)
    assert moves.stopped[0].replica == HALF


def test_a_pair_of_gpus_evicts_the_fewest() -> None:
    crowded = [PlacedReplica(QUARTER, "node-0", (gpu,)) for gpu in (0, 0, 0, 1, 2, 2, 3)]
    after = planned(crowded, {QUARTER: 7, PAIR: 1}, n_gpus=4)
    moves = moves_between(crowded, after.placements)
    # Two quarters of GPUs 1 and 3 move to where there is room.
    assert (len(moves.stopped), len(moves.started)) == (2, 3)
    assert {p.gpus for p in moves.stopped} == {(1,), (3,)}
    assert next(p.gpus for p in moves.started if p.replica == PAIR) == (1, 3)


def test_nothing_moves_for_what_fits() -> None:
    running = [PlacedReplica(HALF, "node-0", (1,)), PlacedReplica(WHOLE, "node-0", (3,))]
    after = planned(running, {HALF: 3, WHOLE: 1, PAIR: 1}, n_gpus=6)
    moves = moves_between(running, after.placements)
    assert moves.stopped == ()
    assert len(moves.started) == 3


@pytest.mark.parametrize("moved", [{"node": "gone"}, {"gpus": (9,)}])
def test_replicas_whose_place_is_gone_are_placed_again(moved: dict[str, object]) -> None:
    lost = replace(PlacedReplica(HALF, "node-0", (0,)), **moved)
    after = planned([lost], {HALF: 1}, n_gpus=2)
    assert after.placements == (PlacedReplica(HALF, "node-0", after.placements[0].gpus),)
