"""The cluster as a running Ray knows it: names, GPUs and types of its nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import CPU, GPU_TYPES
from apportion.deployments.cluster.nodes import TYPE_LABEL, LiveNode, by_name, live_nodes
from apportion.router.errors import ConfigurationError, UnavailableError

# Ray detects the type and names it its own way (ray.util.accelerators).
RAY_TYPE_LABEL = "ray.io/accelerator-type"
_RAY_NAMES = {
    "A100-40G": "A100-40GB",
    "A100-80G": "A100-80GB",
    "AMD-Instinct-MI300X-OAM": "MI300X",
    "AMD-Instinct-MI325X-OAM": "MI325X",
}


def cluster_from_ray(address: str | None = None) -> Cluster:
    """Reads the cluster; connects to Ray for it where this process is not connected yet.

    Args:
        address: of the cluster; None: the one on this machine, or the one that RAY_ADDRESS names.

    Raises:
        UnavailableError: no Ray can be reached.
        ConfigurationError: no node has GPUs, or the type of a node's is not known.
    """
    with connected(address):
        return cluster_of(live_nodes())


def cluster_of(nodes: Sequence[LiveNode]) -> Cluster:
    """The nodes that have GPUs, and those whose label says that their cores are planned with (type `cpu`)."""
    found = []
    for name, node in sorted(by_name(nodes).items()):
        if node.gpu_type == CPU and node.cpus >= 1:
            found.append(Node(name, CPU, int(node.cpus)))
        elif node.gpus:
            found.append(Node(name, node.gpu_type or _detected(node), node.gpus))
    if not found:
        raise ConfigurationError(
            "no node of the Ray cluster has GPUs; start nodes with GPUs, or describe the cluster in a file"
        )
    return Cluster(tuple(found), GPU_TYPES)


def _detected(node: LiveNode) -> str:
    ray_name = node.labels.get(RAY_TYPE_LABEL, "")
    name = _RAY_NAMES.get(ray_name, ray_name)
    if name not in GPU_TYPES:
        raise ConfigurationError(
            f"node {node.name}: the type of its GPUs is {ray_name or 'not known to Ray'}; start it with "
            f"`ray start --labels {TYPE_LABEL}=TYPE` with one of {', '.join(sorted(GPU_TYPES))}, or describe the "
            "cluster in a file"
        )
    return name


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to Ray while the context lasts, if it is not. Raises UnavailableError."""
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UnavailableError(
            f"no Ray cluster can be reached ({str(error).splitlines()[0]}); start it, or name it: ray:HOST:PORT"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
