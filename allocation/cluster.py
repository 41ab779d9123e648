"""The cluster: nodes, their GPUs, and what a GPU of each type can do.

`cluster.yaml`:

    nodes:
      - {name: a, gpu_type: A100-80GB, n_gpus: 8, count: 4}   # a-0 ... a-3; without `count` one node named a
    gpu_types:                                                # only what the built-in table lacks or gets wrong
      my-gpu: {memory_gib: 48, bandwidth_gb_per_s: 864, half_tflops: 181}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from apportion.allocation.gpus import GPU_TYPES, GpuType
from apportion.allocation.yaml_files import Section, fault, read_checked
from apportion.router.errors import ConfigurationError


@dataclass(frozen=True)
class Node:
    """One machine with `n_gpus` GPUs of one type; its GPUs are numbered from 0."""

    name: str
    gpu_type: str
    n_gpus: int


@dataclass(frozen=True)
class Cluster:
    """Nodes (names differ) and the types of their GPUs; raises ConfigurationError where these do not fit together."""

    nodes: tuple[Node, ...]
    gpu_types: Mapping[str, GpuType]

    def __post_init__(self) -> None:
        used = {node.gpu_type for node in self.nodes}
        unknown = sorted(used - set(self.gpu_types))
        if unknown:
            raise ConfigurationError(f"GPU types {unknown} are not described: add them to gpu_types.")
        twice = sorted(name for name, times in Counter(node.name for node in self.nodes).items() if times > 1)
        if twice:
            raise ConfigurationError(f"Node names {twice} appear more than once: every node needs its own name.")
        object.__setattr__(self, "gpu_types", {name: self.gpu_types[name] for name in sorted(used)})

    @property
    def n_gpus(self) -> int:
        """All GPUs."""
        return sum(node.n_gpus for node in self.nodes)

    def node(self, name: str) -> Node:
        """Raises ConfigurationError when there is no such node."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigurationError(f"No node {name!r} in the cluster; it has {[node.name for node in self.nodes]}.")

    @classmethod
    def load(cls, path: str | Path) -> Cluster:
        """Reads cluster.yaml; types that it does not describe come from `apportion.allocation.gpus.GPU_TYPES`.

        Raises ConfigurationError naming file, line and mend.
        """
        path = Path(path)
        given = read_checked(path, ClusterFile)
        types = {**GPU_TYPES, **{name: entry.gpu_type(name) for name, entry in given.gpu_types.items()}}
        names: set[str] = set()
        nodes: list[Node] = []
        for number, entry in enumerate(given.nodes):
            if entry.gpu_type not in types:
                known = ", ".join(sorted(types))
                problem = f"{entry.gpu_type!r} is unknown; describe it under gpu_types, or use one of {known}."
                raise fault(path, ("nodes", number, "gpu_type"), problem)
            for node in entry.nodes():
                if node.name in names:
                    problem = f"the node {node.name!r} appears twice; give every node its own name."
                    raise fault(path, ("nodes", number, "name"), problem)
                names.add(node.name)
                nodes.append(node)
        return cls(tuple(nodes), types)


class _GpuTypeEntry(Section):
    memory_gib: float = Field(gt=0, description="Memory of one GPU in GiB.")
    bandwidth_gb_per_s: float = Field(gt=0, description="Memory bandwidth in 1e9 bytes per second.")
    half_tflops: float = Field(gt=0, description="Dense 16-bit arithmetic in 1e12 FLOP/s.")

    def gpu_type(self, name: str) -> GpuType:
        return GpuType(name, self.memory_gib, self.bandwidth_gb_per_s, self.half_tflops)


class _NodeEntry(Section):
    name: str = Field(min_length=1, description="Name of the node, or what the names of several start with.")
    gpu_type: str = Field(description="Type of its GPUs: of the built-in table or of gpu_types.")
    n_gpus: int = Field(ge=1, le=64, description="GPUs of the node.")
    count: int | None = Field(None, ge=1, description="So many equal nodes, named name-0, name-1, ...; null: one.")

    def nodes(self) -> list[Node]:
        names = [self.name] if self.count is None else [f"{self.name}-{i}" for i in range(self.count)]
        return [Node(name, self.gpu_type, self.n_gpus) for name in names]


class ClusterFile(Section):
    nodes: tuple[_NodeEntry, ...] = Field(min_length=1, description="The machines.")
    gpu_types: dict[str, _GpuTypeEntry] = Field(
        default_factory=dict, description="GPU types that the built-in table lacks or gets wrong."
    )
