"""The cluster: nodes, their GPUs, and what a GPU of each type can do.

`cluster.yaml`:

    nodes:
      - {name: a, gpu_type: A100-80GB, n_gpus: 8, count: 4}   # a-0 ... a-3; without `count` one node named a
      - {name: b, gpus: {H100: 4, L4: 2}}                    # GPUs of two types, numbered in this order
      - {name: c, gpu_type: H100, n_gpus: 8, mig: 1g.10gb, slices: 7}   # 56 slices of type H100-MIG-1g.10gb
    gpu_types:                                                # only what the built-in table lacks or gets wrong
      my-gpu: {memory_gib: 48, bandwidth_gb_per_s: 864, half_tflops: 181}
    gpu_prices:                                               # USD an hour, see `apportion.allocation.gpu_prices`
      A100-80GB: {reserved: 1.6, spot: 0.9}                   # a node says `price: spot` where there are several
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from apportion.allocation.gpu_prices import GpuPrice, PricesByType, price_named
from apportion.allocation.gpus import GPU_TYPES, PCIE4_GB_PER_S, GpuType
from apportion.allocation.yaml_files import YamlFile
from apportion.router.checked import Section, nearest
from apportion.router.errors import ConfigurationError

_MEMORY = re.compile(r"-\d+GB$")


@dataclass(frozen=True)
class Node:
    """One machine with `n_gpus` GPUs of one type, numbered from 0. price: of one of them, None: unknown.

    host, first_gpu: where a machine has GPUs of several types, its name and the number that the first of these has
    there; each type is a node of its own then.
    """

    name: str
    gpu_type: str
    n_gpus: int
    price: GpuPrice | None = None
    host: str | None = None
    first_gpu: int = 0

    @property
    def machine(self) -> str:
        """Name of the machine."""
        return self.host or self.name


@dataclass(frozen=True)
class Cluster:
    """Nodes (names differ) and the types of their GPUs; raises ConfigurationError where these do not fit together."""

    nodes: tuple[Node, ...]
    gpu_types: Mapping[str, GpuType]

    def __post_init__(self) -> None:
        used = {node.gpu_type for node in self.nodes}
        unknown = sorted(used - set(self.gpu_types))
        if unknown:
            raise ConfigurationError(f"gpu_types: {unknown} are not described; add them")
        twice = sorted(name for name, times in Counter(node.name for node in self.nodes).items() if times > 1)
        if twice:
            raise ConfigurationError(f"nodes: the names {twice} appear more than once; give every node its own")
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
        raise ConfigurationError(f"no node {name!r} in the cluster; it has {[node.name for node in self.nodes]}")

    @property
    def together(self) -> dict[str, int]:
        """By GPU type the most that one replica may span: those of one node, of which MIG slices are each alone."""
        most = Counter[str]()
        for node in self.nodes:
            number = 1 if self.gpu_types[node.gpu_type].slice_of else node.n_gpus
            most[node.gpu_type] = max(most[node.gpu_type], number)
        return dict(most)

    @property
    def mixed(self) -> tuple[str, ...]:
        """Machines with GPUs of several types."""
        return tuple(name for name, parts in Counter(node.machine for node in self.nodes).items() if parts > 1)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """GPU types of nodes whose price is not known."""
        return tuple(sorted({node.gpu_type for node in self.nodes if node.price is None}))

    def priced(self, usd_per_hour: Mapping[str, float]) -> Cluster:
        """With these prices of GPUs, by type; raises ConfigurationError where no node has such GPUs."""
        for gpu_type in usd_per_hour:
            if gpu_type not in self.gpu_types:
                has = ", ".join(self.gpu_types)
                raise ConfigurationError(f"no node has GPUs of type {gpu_type!r}; give prices of {has}")
        given = {gpu_type: GpuPrice("given", usd) for gpu_type, usd in usd_per_hour.items()}
        return replace(
            self, nodes=tuple(replace(node, price=given.get(node.gpu_type, node.price)) for node in self.nodes)
        )

    @classmethod
    def load(cls, path: str | Path) -> Cluster:
        """Reads cluster.yaml; types that it does not describe come from `apportion.allocation.gpus.GPU_TYPES`.

        Raises ConfigurationError naming file, line and mend.
        """
        file = YamlFile.read(path)
        given = file.checked(ClusterFile)
        types = {**GPU_TYPES, **{name: entry.gpu_type(name) for name, entry in given.gpu_types.items()}}
        for name in given.gpu_prices:
            if name not in types:
                raise file.fault(("gpu_prices", name), f"{name!r} is no GPU type{nearest(name, types)}; correct it")
        names: set[str] = set()
        nodes: list[Node] = []
        for number, entry in enumerate(given.nodes):
            parts = []
            for gpu_type, n_gpus in entry.parts.items():
                at = "gpu_type" if entry.gpus is None else "gpus"
                if gpu_type not in types:
                    known = ", ".join(sorted(types))
                    bare = types.get(_MEMORY.sub("", gpu_type))
                    hint = "" if bare is None else f"; {bare.name} is the name of those with {bare.memory_gib:g} GiB"
                    problem = f"{gpu_type!r} is unknown{hint}; describe it under gpu_types, or use one of {known}"
                    raise file.fault(("nodes", number, at), problem)
                try:
                    price = price_named(given.gpu_prices.get(gpu_type, {}), entry.price, gpu_type)
                except ValueError as error:
                    raise file.fault(("nodes", number, "price"), str(error)) from error
                if entry.mig is not None:
                    try:
                        sliced = types[gpu_type].mig(entry.mig)
                    except ValueError as error:
                        raise file.fault(("nodes", number, "mig"), str(error)) from error
                    types[sliced.name] = sliced
                    gpu_type, n_gpus = sliced.name, n_gpus * entry.slices
                    price = None if price is None else replace(price, usd_per_hour=price.usd_per_hour / entry.slices)
                parts.append((gpu_type, n_gpus, price))
            for node in entry.nodes(parts):
                if node.name in names:
                    problem = f"the node {node.name!r} appears twice; give every node its own name"
                    raise file.fault(("nodes", number, "name"), problem)
                names.add(node.name)
                nodes.append(node)
        return cls(tuple(nodes), types)


class _GpuTypeEntry(Section):
    memory_gib: float = Field(gt=0, description="Memory of one GPU in GiB.")
    bandwidth_gb_per_s: float = Field(gt=0, description="Memory bandwidth in 1e9 bytes per second.")
    half_tflops: float = Field(gt=0, description="Dense 16-bit arithmetic in 1e12 FLOP/s.")
    fp8_tflops: float | None = Field(None, gt=0, description="Dense FP8 arithmetic in 1e12 FLOP/s; null: none.")
    fp4_tflops: float | None = Field(None, gt=0, description="Dense FP4 arithmetic in 1e12 FLOP/s; null: none.")
    capability: int | None = Field(
        None, ge=30, le=200, description="NVIDIA's compute capability, 89 for 8.9; null: another maker's, or unknown."
    )
    link_gb_per_s: float = Field(
        PCIE4_GB_PER_S,
        gt=0,
        description="What a GPU exchanges with the others of its node in 1e9 bytes per second and direction: 450 for "
        "the NVLink of an H100, 64 for PCIe 5.0.",
    )

    def gpu_type(self, name: str) -> GpuType:
        return GpuType(name, **self.model_dump())


class _NodeEntry(Section):
    name: str = Field(min_length=1, description="Name of the node, or what the names of several start with.")
    gpu_type: str | None = Field(None, description="Type of its GPUs: of the built-in table or of gpu_types.")
    n_gpus: int | None = Field(None, ge=1, le=64, description="GPUs of the node.")
    gpus: dict[str, Annotated[int, Field(ge=1, le=64)]] | None = Field(
        None,
        min_length=1,
        description="GPUs of several types in one node, by type, in the order of their numbers; in place of gpu_type "
        "and n_gpus.",
    )
    mig: str | None = Field(
        None, description="Each GPU is cut in MIG slices of this profile, as 1g.10gb, which replicas take as GPUs."
    )
    slices: int = Field(1, ge=1, le=7, description="Slices that each GPU is cut in, with mig.")
    count: int | None = Field(None, ge=1, description="So many equal nodes, named name-0, name-1, ...; null: one.")
    price: str | None = Field(None, description="Kind of price of its GPUs, of gpu_prices; null: the only one.")

    @model_validator(mode="after")
    def _gpus_agree(self) -> _NodeEntry:
        if (self.gpus is None) == (self.gpu_type is None or self.n_gpus is None):
            raise ValueError("give either gpu_type and n_gpus, or gpus with a number for each type")
        if self.mig is None and self.slices > 1:
            raise ValueError("slices: GPUs are cut in MIG slices only; name their profile with mig, or leave it out")
        if self.mig is not None and self.gpus is not None:
            raise ValueError("mig: a node with GPUs of several types is not cut; describe the slices of one type")
        return self

    @property
    def parts(self) -> dict[str, int]:
        """GPUs by type."""
        return self.gpus or {str(self.gpu_type): self.n_gpus or 0}

    def nodes(self, parts: Sequence[tuple[str, int, GpuPrice | None]]) -> list[Node]:
        names = [self.name] if self.count is None else [f"{self.name}-{i}" for i in range(self.count)]
        if len(parts) == 1:
            return [Node(name, *parts[0]) for name in names]
        firsts = [sum(number for _, number, _ in parts[:i]) for i in range(len(parts))]
        return [
            Node(f"{name}:{gpu_type}", gpu_type, number, price, name, first)
            for name in names
            for (gpu_type, number, price), first in zip(parts, firsts, strict=True)
        ]


class ClusterFile(Section):
    nodes: tuple[_NodeEntry, ...] = Field(min_length=1, description="The machines.")
    gpu_types: dict[str, _GpuTypeEntry] = Field(
        default_factory=dict, description="GPU types that the built-in table lacks or gets wrong."
    )
    gpu_prices: PricesByType = Field(
        default_factory=dict,
        description="USD per GPU and hour, by GPU type and kind (reserved, spot, own, ...), or what own ones cost.",
    )
