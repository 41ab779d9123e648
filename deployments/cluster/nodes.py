"""The nodes of the running Ray cluster, and the names that plans and configurations call them by.

A node is named by its label `apportion-node` (`ray start --labels apportion-node=a-0`) or by its address, and the type
of its GPUs by its label `apportion-gpu-type`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apportion.router.errors import ConfigurationError

NODE_LABEL = "apportion-node"
TYPE_LABEL = "apportion-gpu-type"


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

    @property
    def gpu_type(self) -> str | None:
        """As its label says; None: it says none."""
        return self.labels.get(TYPE_LABEL)


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


def node_address() -> str:
    """The address under which Ray knows this node; loopback where Ray was started on it."""
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    return next(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == node_id)


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
