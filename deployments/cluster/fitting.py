"""Whether all replicas of a configuration fit the Ray cluster at hand, GPU by GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import ceil

from apportion.allocation.replica import SHARE_UNITS
from apportion.allocation.room import FreeGpus
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
    room = FreeGpus({name: node.gpus for name, node in there.items()})
    for name, groups in pinned.items():
        _take([group for group in groups if group.gpus is not None], room, there[name])
        _place([group for group in groups if group.gpus is None], room, [there[name]], f"node {name}")
        _check_cpus(groups, there[name].cpus, f"node {name}")
    _place([*free, *_predictor(config)], room, there.values(), "the cluster")
    everything = [*free, *(group for groups in pinned.values() for group in groups)]
    others = config.predictor.num_cpus + config.solver.num_cpus + config.router.num_cpus
    others += config.ingress.num_cpus * config.ingress.num_replicas
    _check_cpus(everything, sum(node.cpus for node in there.values()), "the cluster", others)


def _predictor(config: ServiceConfig) -> list[ReplicaGroup]:
    share = config.predictor.num_gpus
    return [ReplicaGroup(name=_PREDICTOR, num_gpus=share, num_cpus=0)] if share else []


def _take(groups: Iterable[ReplicaGroup], room: FreeGpus, node: LiveNode) -> None:
    """Takes what groups ask for of the GPUs that they name."""
    for group in groups:
        gpus = group.gpus or ()
        for gpu in gpus:
            if gpu >= node.gpus:
                raise ConfigurationError(
                    f"group {group.name} asks for GPU {gpu} of node {node.name}, which has {node.gpus}; plan for the "
                    "cluster as it is"
                )
        room.take(node.name, gpus, _units(group) * group.num_replicas)
        full = room.overfull(node.name, gpus)
        if full is not None:
            raise ConfigurationError(
                f"GPU {full} of node {node.name} is given out {room.used_share(node.name, full):g} times; shares on "
                "one GPU sum to at most 1"
            )


def _place(groups: Iterable[ReplicaGroup], room: FreeGpus, nodes: Iterable[LiveNode], where: str) -> None:
    """Takes room on one of the nodes for each replica of the groups, the largest first, on the fullest GPUs."""
    nodes = tuple(nodes)
    replicas = sorted((group for group in groups for _ in range(group.num_replicas)), key=lambda group: -group.num_gpus)
    for group in replicas:
        if not group.num_gpus:
            continue
        seats = [(room.fullest(node.name, _units(group), ceil(group.num_gpus)), node.name) for node in nodes]
        fitting = [(spot, node) for spot, node in seats if spot is not None]
        if not fitting:
            raise ConfigurationError(_no_room(group, replicas, sum(node.gpus for node in nodes), where))
        spot, node = min(fitting)
        room.take(node, spot.gpus, _units(group))


def _units(group: ReplicaGroup) -> int:
    """What a replica of the group takes of each of its GPUs."""
    return round(min(group.num_gpus, 1.0) * SHARE_UNITS)


def _no_room(group: ReplicaGroup, replicas: list[ReplicaGroup], there: int, where: str) -> str:
    mend = "plan for the cluster as it is, or add GPUs"
    if group.name == _PREDICTOR:
        mend = (
            f"plan with --reserve-gpu {group.num_gpus:g}, name the replicas' GPUs (render --pin), or predict on the "
            "CPU (predictor.num_gpus: 0)"
        )
    needed = sum(other.num_gpus for other in replicas)
    return (
        f"a replica with num_gpus {group.num_gpus:g} (group {group.name}) finds no room on {where}: {needed:g} GPUs "
        f"are asked for there, it has {there}, and shares on one GPU sum to at most 1; {mend}"
    )


def _check_cpus(groups: Iterable[ReplicaGroup], available: float, where: str, others: float = 0.0) -> None:
    needed = sum(group.num_cpus * group.num_replicas for group in groups) + others
    if needed > available + _EPSILON:
        raise ConfigurationError(
            f"{where} has {available:g} CPUs and {needed:g} are asked for; lower num_cpus, or add CPUs"
        )
