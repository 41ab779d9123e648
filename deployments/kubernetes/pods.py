"""Which pods there are: of the planned nodes, or as the values say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from apportion.allocation.gpus import CPU
from apportion.allocation.plan import Plan
from apportion.deployments.cluster.nodes import TYPE_LABEL, LiveNode
from apportion.deployments.kubernetes.values import Values
from apportion.router.errors import ConfigurationError

FRONT = "front"


@dataclass(frozen=True)
class Pods:
    """Equal pods, which KubeRay calls a worker group.

    Args:
        name: of the group.
        replicas: pods.
        cpus: of a pod.
        memory_gib: of a pod.
        gpus: of a pod.
        gpu_type: of its GPUs; `cpu`: its cores are planned with; None: neither.
    """

    name: str
    replicas: int
    cpus: float
    memory_gib: float
    gpus: int = 0
    gpu_type: str | None = None


def pods_of(values: Values, plan: Plan | None, num_cpus: float) -> tuple[Pods, ...]:
    """The front, and the pods with GPUs: the plan's, or where there is none those of the values.

    Args:
        num_cpus: that a planned replica on GPUs reserves.

    Raises:
        ConfigurationError: the planned replicas of a pod reserve more CPUs than it has.
    """
    front = Pods(FRONT, values.front.replicas, values.front.cpus, values.front.memory_gib)
    if plan is None:
        workers = [_pods(one.name, one.gpu_type, one.gpus, one.replicas, values) for one in values.workers]
    else:
        planned = list(_planned(plan, values.pods))
        sizes = Counter((one.gpu_type, one.gpus) for one in planned)
        workers = [
            _pods(_name(gpu_type, gpus), gpu_type, gpus, number + values.spare_pods, values)
            for (gpu_type, gpus), number in sorted(sizes.items())
        ]
        for one in planned:
            needed = one.replicas * num_cpus
            if one.gpu_type != CPU and needed > one.gpus * values.cpus_per_gpu:
                raise ConfigurationError(
                    f"cpus_per_gpu: a pod with {one.gpus} of {one.gpu_type} runs {one.replicas} planned replicas, "
                    f"which reserve {needed:g} CPUs, and has {one.gpus * values.cpus_per_gpu:g}; raise it to "
                    f"{needed / one.gpus:g} in the values, or lower --num-cpus"
                )
    return (front, *workers)


def as_nodes(pods: tuple[Pods, ...]) -> list[LiveNode]:
    """What Ray will see of them, for the check whether everything fits."""
    return [
        LiveNode(
            id=f"{one.name}-{number}",
            address=f"{one.name}-{number}",
            labels={} if one.gpu_type is None else {TYPE_LABEL: one.gpu_type},
            gpus=one.gpus,
            cpus=one.cpus,
        )
        for one in pods
        for number in range(one.replicas)
    ]


class _Planned(NamedTuple):
    """What one pod is for: of the type `cpu`, `gpus` are cores."""

    gpu_type: str
    gpus: int
    replicas: int


def _planned(plan: Plan, pods: str) -> Iterator[_Planned]:
    """Each pod that the plan needs; cores stay together as their node has them."""
    for node in plan.cluster.nodes:
        here = Counter(tuple(sorted(placed.gpus)) for placed in plan.placements if placed.node == node.name)
        if here and (pods == "node" or node.gpu_type == CPU):
            yield _Planned(node.gpu_type, node.n_gpus, here.total())
        else:
            yield from (_Planned(node.gpu_type, len(gpus), number) for gpus, number in sorted(here.items()))


def _pods(name: str, gpu_type: str, gpus: int, replicas: int, values: Values) -> Pods:
    if gpu_type == CPU:
        return Pods(name, replicas, gpus, gpus * values.front.memory_gib / values.front.cpus, 0, CPU)
    return Pods(name, replicas, gpus * values.cpus_per_gpu, gpus * values.memory_gib_per_gpu, gpus, gpu_type)


def _name(gpu_type: str, gpus: int) -> str:
    """`h100-x8`: what names of worker groups may hold."""
    return re.sub(r"[^a-z0-9]+", "-", gpu_type.lower()).strip("-") + f"-x{gpus}"
