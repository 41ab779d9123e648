"""Whether all replicas of a configuration fit the Ray cluster at hand, GPU by GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from apportion.deployments.cluster.nodes import NODE_LABEL, LiveNode, by_name
from apportion.deployments.config.models import ReplicaGroup
from apportion.deployments.config.service import ServiceConfig
from apportion.router.errors import ConfigurationError

_EPSILON = 1e-6
_PREDICTOR = "Predictor"


def check_fits(config: ServiceConfig, nodes: Iterable[LiveNode]) -> None:
    """Refuses a configuration that the cluster cannot run all of, before anything of it starts.

    Replicas sit on the GPUs that their group names, others where there is room, largest first into the fullest GPU:
    what fits in sum does not fit where no single GPU has room.

    Raises:
        ConfigurationError: names the node, what is needed there, and what there is.
    """
    there = by_name(nodes)
    pinned: dict[str, list[ReplicaGroup]] = defaultdict(list)
    free: list[ReplicaGroup] = []
    for model in config.models:
        for group in model.groups:
            if group.node is None:
                free.append(group)
            elif group.node not in there:
                raise ConfigurationError(
                    f"{model.name}: no node {group.node!r} in the Ray cluster, which has {', '.join(sorted(there))}; "
                    f"start it with `ray start --labels {NODE_LABEL}={group.node}`, or plan for the nodes there are"
                )
            else:
                pinned[group.node].append(group)
    room = {name: [1.0] * node.gpus for name, node in there.items()}
    for name, groups in pinned.items():
        _take([group for group in groups if group.gpus is not None], room[name], name)
        _place([group for group in groups if group.gpus is None], {name: room[name]}, f"node {name}")
        _check_cpus(groups, there[name].cpus, f"node {name}")
    _place([*free, *_predictor(config)], room, "the cluster")
    everything = [*free, *(group for groups in pinned.values() for group in groups)]
    others = config.predictor.num_cpus + config.solver.num_cpus + config.router.num_cpus
    others += config.ingress.num_cpus * config.ingress.num_replicas
    _check_cpus(everything, sum(node.cpus for node in there.values()), "the cluster", others)


def _predictor(config: ServiceConfig) -> list[ReplicaGroup]:
    share = config.predictor.num_gpus
    return [ReplicaGroup(name=_PREDICTOR, num_gpus=share, num_cpus=0)] if share else []


def _take(groups: Iterable[ReplicaGroup], free: list[float], node: str) -> None:
    """Takes what groups ask for of the GPUs that they name."""
    for group in groups:
        for gpu in group.gpus or ():
            if gpu >= len(free):
                raise ConfigurationError(
                    f"group {group.name} asks for GPU {gpu} of node {node}, which has {len(free)}; plan for the "
                    "cluster as it is"
                )
            free[gpu] -= min(group.num_gpus, 1.0) * group.num_replicas
            if free[gpu] < -_EPSILON:
                raise ConfigurationError(
                    f"GPU {gpu} of node {node} is given out {1 - free[gpu]:g} times; shares on one GPU sum to at most 1"
                )


def _place(groups: Iterable[ReplicaGroup], room: dict[str, list[float]], where: str) -> None:
    """Takes the groups' GPUs out of `room` (free share of each GPU, by node)."""
    replicas = sorted((group for group in groups for _ in range(group.num_replicas)), key=lambda group: -group.num_gpus)
    for group in replicas:
        if not group.num_gpus:
            continue
        node, gpus = _seat(group.num_gpus, room)
        if node is None:
            mend = "plan for the cluster as it is, or add GPUs"
            if group.name == _PREDICTOR:
                mend = (
                    f"plan with --reserve-gpu {group.num_gpus:g}, name the replicas' GPUs (render --pin), or predict "
                    "on the CPU (predictor.num_gpus: 0)"
                )
            needed = sum(other.num_gpus for other in replicas)
            there = sum(len(free) for free in room.values())
            raise ConfigurationError(
                f"a replica with num_gpus {group.num_gpus:g} (group {group.name}) finds no room on {where}: {needed:g} "
                f"GPUs are asked for there, it has {there}, and shares on one GPU sum to at most 1; {mend}"
            )
        for gpu in gpus:
            room[node][gpu] -= min(group.num_gpus, 1.0)


def _seat(num_gpus: float, room: dict[str, list[float]]) -> tuple[str | None, list[int]]:
    """The node and its GPUs for one replica: the fullest one that has room."""
    if num_gpus >= 1:
        for node, free in room.items():
            whole = [gpu for gpu, left in enumerate(free) if left > 1 - _EPSILON]
            if len(whole) >= num_gpus:
                return node, whole[: int(num_gpus)]
        return None, []
    fitting = [
        (left, node, gpu) for node, free in room.items() for gpu, left in enumerate(free) if left >= num_gpus - _EPSILON
    ]
    if not fitting:
        return None, []
    _, node, gpu = min(fitting)
    return node, [gpu]


def _check_cpus(groups: Iterable[ReplicaGroup], available: float, where: str, others: float = 0.0) -> None:
    needed = sum(group.num_cpus * group.num_replicas for group in groups) + others
    if needed > available + _EPSILON:
        raise ConfigurationError(
            f"{where} has {available:g} CPUs and {needed:g} are asked for; lower num_cpus, or add CPUs"
        )
