"""Whether all replicas of a configuration fit the Ray cluster at hand, GPU by GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from apportion.allocation.replica import SHARE_UNITS
from apportion.allocation.room import FreeGpus
from apportion.deployments.cluster.nodes import NODE_LABEL, TYPE_LABEL, LiveNode, by_name
from apportion.deployments.config.replica_groups import ReplicaGroup
from apportion.deployments.config.service import PredictorConfig, ServiceConfig
from apportion.router.errors import ConfigurationError

_EPSILON = 1e-6
_PREDICTOR = "Predictor"


class _Asked(NamedTuple):
    """Equal replicas, and `who` they are in a message."""

    who: str
    replicas: ReplicaGroup


def check_deploy(config: ServiceConfig, nodes: Iterable[LiveNode]) -> None:
    """As `check_fits`, but not where Ray may be about to add nodes: without a plan, or where some are awaited.

    Raises:
        ConfigurationError: names the node, what is needed there, and what there is.
    """
    if not config.rollout.await_nodes and any(model.replica_groups is not None for model in config.models):
        check_fits(config, nodes)


def check_fits(config: ServiceConfig, nodes: Iterable[LiveNode]) -> None:
    """Refuses a configuration that the cluster cannot run all of, before anything of it starts.

    Replicas sit on the GPUs that their group names, others where there is room, largest first into the fullest GPU:
    what fits in sum does not fit where no single GPU has room. Models that may sleep can take turns: each has to have
    room for one replica beside what never sleeps.

    Raises:
        ConfigurationError: names the node, what is needed there, and what there is.
    """
    nodes = tuple(nodes)
    awake = [model for model in config.models if not model.may_sleep]
    _check_fits(config.model_copy(update={"models": awake}), nodes)
    for model in config.models:
        if model.may_sleep:
            (group,) = model.groups
            one = model.model_copy(update={"replica_groups": (group.model_copy(update={"num_replicas": 1}),)})
            _check_fits(config.model_copy(update={"models": [*awake, one]}), nodes)


def _check_fits(config: ServiceConfig, nodes: Iterable[LiveNode]) -> None:
    there = by_name(nodes)
    pinned: dict[str, list[_Asked]] = defaultdict(list)
    free: list[_Asked] = []
    for model in config.models:
        for group in model.groups:
            asked = _Asked(model.name if model.replica_groups is None else f"{model.name} (group {group.name})", group)
            if group.node is None:
                free.append(asked)
            elif group.node not in there:
                raise ConfigurationError(
                    f"{model.name}: no node {group.node!r} in the Ray cluster, which has {', '.join(sorted(there))}; "
                    f"start it with `ray start --labels {NODE_LABEL}={group.node}`, or plan for the nodes there are"
                )
            else:
                pinned[group.node].append(asked)
    room = FreeGpus({name: node.gpus for name, node in there.items()})
    for name, here in pinned.items():
        _take([asked for asked in here if asked.replicas.gpus is not None], room, there[name])
        _place([asked for asked in here if asked.replicas.gpus is None], room, [there[name]], f"node {name}")
        _check_cpus(here, there[name].cpus, f"node {name}")
    predictor = _predictor(config.predictor)
    try:
        _place([*free, predictor], room, there.values(), "the cluster")
    except ConfigurationError as error:
        raise ConfigurationError(error.message + _beside_the_plan(config)) from error
    everything = [predictor, *free, *(asked for here in pinned.values() for asked in here)]
    others = config.solver.num_cpus + config.router.num_cpus
    others += config.ingress.num_cpus * config.ingress.num_replicas
    _check_cpus(everything, sum(node.cpus for node in there.values()), "the cluster", others)


def _predictor(config: PredictorConfig) -> _Asked:
    fields = {"num_replicas": config.num_replicas, "num_gpus": config.num_gpus, "num_cpus": config.num_cpus}
    return _Asked(_PREDICTOR, ReplicaGroup(name=_PREDICTOR, **fields))


def _take(asked: Iterable[_Asked], room: FreeGpus, node: LiveNode) -> None:
    """Takes what replicas ask for of the GPUs that they name."""
    for who, replicas in asked:
        gpus = replicas.gpus or ()
        for gpu in gpus:
            if gpu >= node.gpus:
                raise ConfigurationError(
                    f"{who} asks for GPU {gpu} of node {node.name}, which has {node.gpus}; plan for the "
                    "cluster as it is"
                )
        room.take(node.name, gpus, _units(replicas) * replicas.num_replicas)
        full = room.overfull(node.name, gpus)
        if full is not None:
            raise ConfigurationError(
                f"GPU {full} of node {node.name} is given out {room.used_share(node.name, full):g} times; shares on "
                "one GPU sum to at most 1"
            )


def _place(asked: Iterable[_Asked], room: FreeGpus, nodes: Iterable[LiveNode], where: str) -> None:
    """Takes room on one of the nodes for each replica, the largest first, on the fullest GPUs."""
    nodes = tuple(nodes)
    largest_first = sorted((one for one in asked if one.replicas.num_gpus), key=lambda one: -one.replicas.num_gpus)
    for who, replicas in largest_first:
        suitable = [node for node in nodes if replicas.gpu_type in (None, node.gpu_type)]
        if not suitable:
            raise ConfigurationError(
                f"{who}: no node has GPUs of type {replicas.gpu_type}; start one with "
                f"`ray start --labels {TYPE_LABEL}={replicas.gpu_type}`, or plan for the cluster as it is"
            )
        for _ in range(replicas.num_replicas):
            seats = [
                (room.fullest(node.name, _units(replicas), ceil(replicas.num_gpus)), node.name) for node in suitable
            ]
            fitting = [(spot, node) for spot, node in seats if spot is not None]
            if not fitting:
                rivals = [one.replicas for one in largest_first if replicas.gpu_type in (None, one.replicas.gpu_type)]
                needed = sum(one.num_gpus * one.num_replicas for one in rivals)
                kind = "" if replicas.gpu_type is None else f" of type {replicas.gpu_type}"
                raise ConfigurationError(
                    f"a replica of {who} with num_gpus {replicas.num_gpus:g} finds no room on {where}: {needed:g} "
                    f"GPUs{kind} are asked for there, it has {sum(node.gpus for node in suitable)}, and "
                    f"shares on one GPU sum to at most 1; {_mend(who, replicas)}"
                )
            spot, node = min(fitting)
            room.take(node, spot.gpus, _units(replicas))


def _beside_the_plan(config: ServiceConfig) -> str:
    """The end of a message: models that ask for GPUs of which the plan, where there is one, knows nothing."""
    if all(model.replica_groups is None for model in config.models):
        return ""
    names = [model.name for model in config.models if model.replica_groups is None and model.num_gpus]
    if not names:
        return ""
    return f"; beside the planned replicas the configuration has {', '.join(names)}: plan them too, or remove them"


def _units(replicas: ReplicaGroup) -> int:
    """What each of the replicas takes of each of its GPUs."""
    return round(min(replicas.num_gpus, 1.0) * SHARE_UNITS)


def _mend(who: str, replicas: ReplicaGroup) -> str:
    if who == _PREDICTOR:
        return (
            f"plan with --reserve-gpu {replicas.num_gpus:g}, name the replicas' GPUs (render --pin), or predict on the "
            "CPU (predictor.num_gpus: 0)"
        )
    return "plan for the cluster as it is, add GPUs, or run it on the CPU (num_gpus: 0)"


def _check_cpus(asked: Iterable[_Asked], available: float, where: str, others: float = 0.0) -> None:
    needed = sum(one.replicas.num_cpus * one.replicas.num_replicas for one in asked) + others
    if needed > available + _EPSILON:
        raise ConfigurationError(
            f"{where} has {available:g} CPUs and {needed:g} are asked for; lower num_cpus, or add CPUs"
        )
