"""How a deployment is bound to a node, its GPUs or a type of GPU, and in which order deployments start."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from apportion.deployments.cluster.nodes import NODE_LABEL, TYPE_LABEL
from apportion.deployments.config.models import ModelConfig
from apportion.deployments.config.replica_groups import ReplicaGroup

_PINCH = 0.001  # of the resource that Ray gives every node under its address


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


def deployment_options(group: ReplicaGroup, runtime_env: dict[str, Any]) -> dict[str, Any]:
    """The options of a Serve deployment that decide where a group's replicas run and what Ray reserves for them."""
    actor: dict[str, Any] = {"num_gpus": group.num_gpus, "num_cpus": group.num_cpus, "runtime_env": runtime_env}
    pinned = {} if group.node is None else pin(group.node)
    if group.gpu_type is not None:
        pinned["label_selector"] = {TYPE_LABEL: group.gpu_type}
    bundles = group.placement_group_bundles
    if bundles is None:
        return {"ray_actor_options": actor | pinned}
    options: dict[str, Any] = {"ray_actor_options": actor, "placement_group_strategy": "STRICT_PACK"}
    options["placement_group_bundles"] = [bundle | pinned.get("resources", {}) for bundle in bundles]
    if "label_selector" in pinned:
        options["placement_group_bundle_label_selector"] = [pinned["label_selector"]] * len(bundles)
    return options


def pin(node: str) -> dict[str, Any]:
    """The options of an actor or bundle that bind it to a node, by its label or its address."""
    try:
        ipaddress.ip_address(node)
    except ValueError:
        return {"label_selector": {NODE_LABEL: node}}
    return {"resources": {f"node:{node}": _PINCH}}
