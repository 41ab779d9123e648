"""Where replicas run: how a deployment is pinned to a node, and whether all of it fits the Ray cluster at hand.

A node is named by its label `apportion-node` (`ray start --labels apportion-node=a-0`) or by its address.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from apportion.deployments.config.models import ModelConfig, ReplicaGroup
from apportion.deployments.config.service import ServiceConfig
from apportion.router.errors import ConfigurationError

NODE_LABEL = "apportion-node"
_PINCH = 0.001  # of the resource that Ray gives every node under its address
_EPSILON = 1e-6
_PREDICTOR = "Predictor"


@dataclass(frozen=True)
class LiveNode:
    """A node of the running cluster: all that it has, used or not."""

    id: str
    address: str
    labels: dict[str, str]
    gpus: int
    cpus: float

    @property
    def name(self) -> str:
        return self.labels.get(NODE_LABEL, self.address)


def live_nodes() -> list[LiveNode]:
    """The nodes that are alive, of the Ray that this process is connected to."""
    import ray

    return [
        LiveNode(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            labels=dict(node.get("Labels") or {}),
            gpus=int(node["Resources"].get("GPU", 0)),
            cpus=float(node["Resources"].get("CPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def in_order(models: Iterable[ModelConfig]) -> list[tuple[ModelConfig, ReplicaGroup]]:
    """Every model's groups, GPU by GPU.

    Ray puts a share on the fullest GPU that has room for it. Started in this order its count follows the plan: until
    a GPU's own replicas are placed nothing else wants the GPU that was opened for them.
    """
    pairs = [(model, group) for model in models for group in model.groups]
    return sorted(pairs, key=lambda pair: (pair[1].node or "", pair[1].gpus or (), -pair[1].num_gpus))


def gpu_environment(group: ReplicaGroup) -> dict[str, str]:
    """Makes the replica use the GPUs that the plan names, whichever of the node's equal GPUs Ray counts it on."""
    if not group.gpus or not group.num_gpus:
        return {}
    visible = ",".join(str(gpu) for gpu in group.gpus)
    return {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": visible}


def placement_options(group: ReplicaGroup, runtime_env: dict[str, Any]) -> dict[str, Any]:
    """The options of a Serve deployment that decide where a group's replicas run and what Ray reserves for them."""
    actor: dict[str, Any] = {"num_gpus": group.num_gpus, "num_cpus": group.num_cpus, "runtime_env": runtime_env}
    bundles = group.placement_group_bundles
    if bundles is None:
        if group.node is not None:
            actor |= _pin(group.node)
        return {"ray_actor_options": actor}
    options: dict[str, Any] = {"ray_actor_options": actor, "placement_group_strategy": "STRICT_PACK"}
    options["placement_group_bundles"] = [dict(bundle) for bundle in bundles]
    if group.node is not None:
        pin = _pin(group.node)
        options["placement_group_bundles"] = [bundle | pin.get("resources", {}) for bundle in bundles]
        if "label_selector" in pin:
            options["placement_group_bundle_label_selector"] = [pin["label_selector"]] * len(bundles)
    return options


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


def _pin(node: str) -> dict[str, Any]:
    try:
        ipaddress.ip_address(node)
    except ValueError:
        return {"label_selector": {NODE_LABEL: node}}
    return {"resources": {f"node:{node}": _PINCH}}


def by_name(nodes: Iterable[LiveNode]) -> dict[str, LiveNode]:
    """Raises ConfigurationError where two nodes have one name."""
    found: dict[str, LiveNode] = {}
    for node in nodes:
        if node.name in found:
            raise ConfigurationError(
                f"two nodes of the Ray cluster are named {node.name!r}; give each its own label {NODE_LABEL}"
            )
        found[node.name] = node
    return found


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
