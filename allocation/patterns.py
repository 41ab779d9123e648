"""Packing without symmetry: how one GPU can be cut into shares, and one node into groups of GPUs.

Equal nodes form a class, and what counts is how many GPUs (nodes) of a class follow which pattern: a multiset of
sizes that fits one GPU (node). Which model takes a share of a pattern does not matter to the packing, so patterns
are over sizes only and stay few, and no two solutions differ by swapping equal GPUs. This is the pattern
formulation of cutting stock (Gilmore and Gomory, 1961), on two levels. Patterns to which nothing can be added
suffice, since a place may stay empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpu_prices import GpuKind, GpuPrice
from apportion.allocation.gpus import CPU
from apportion.allocation.replica import SHARE_UNITS, ReplicaType
from apportion.router.errors import ConfigurationError

MOST_PATTERNS = 20_000

Pattern = tuple[int, ...]


@dataclass(frozen=True)
class NodeClass:
    """Equal nodes: `n_gpus` GPUs of one type and one price each."""

    gpu_type: str
    n_gpus: int
    nodes: tuple[Node, ...]

    def takes(self, replica: ReplicaType) -> bool:
        """Whether an empty node of the class can hold the replica."""
        return replica.gpu_type == self.gpu_type and replica.tensor_parallel <= self.n_gpus

    @property
    def price(self) -> GpuPrice | None:
        """Of one GPU; None: unknown."""
        return self.nodes[0].price

    @property
    def kind(self) -> GpuKind:
        """Type and price of its GPUs."""
        return self.gpu_type, self.price


@dataclass(frozen=True)
class Packing:
    """The patterns of one class.

    reserved: share of one GPU of the cluster, in ten-thousandths, that no replica may take; 0: none.
    shares: sizes of parts of one GPU in ten-thousandths, largest first; gpu_patterns: how many of each on a GPU, those
    that leave the reserved share free last. groups: sizes of groups of GPUs, largest first, 1 for GPUs that are cut;
    node_patterns: how many of each.
    """

    node_class: NodeClass
    replicas: tuple[ReplicaType, ...]
    reserved: int = 0

    @cached_property
    def shares(self) -> tuple[int, ...]:
        return tuple(sorted({r.units for r in self.replicas if r.tensor_parallel == 1}, reverse=True))

    @cached_property
    def groups(self) -> tuple[int, ...]:
        sizes = {r.tensor_parallel for r in self.replicas if r.tensor_parallel > 1}
        return tuple(sorted(sizes | ({1} if self.shares or self.reserved else set()), reverse=True))

    @cached_property
    def gpu_patterns(self) -> tuple[Pattern, ...]:
        return maximal_patterns(self.shares, SHARE_UNITS) + self._sparing

    @cached_property
    def _sparing(self) -> tuple[Pattern, ...]:
        if not self.reserved:
            return ()
        return maximal_patterns(self.shares, SHARE_UNITS - self.reserved) or ((),)

    def spares(self, pattern: int) -> bool:
        """Whether the GPU pattern of this number is one of those that leave the reserved share free."""
        return pattern >= len(self.gpu_patterns) - len(self._sparing)

    @cached_property
    def node_patterns(self) -> tuple[Pattern, ...]:
        return maximal_patterns(self.groups, self.node_class.n_gpus)


def node_classes(cluster: Cluster, alone: Collection[str] = ()) -> tuple[NodeClass, ...]:
    """The classes of the cluster's nodes; nodes named in `alone` are classes of their own."""
    classes: dict[tuple[object, ...], list[Node]] = {}
    for node in cluster.nodes:
        key = (node.gpu_type, node.n_gpus, node.price, node.name if node.name in alone else "")
        classes.setdefault(key, []).append(node)
    return tuple(NodeClass(nodes[0].gpu_type, nodes[0].n_gpus, tuple(nodes)) for nodes in classes.values())


def packings(
    classes: Iterable[NodeClass], replicas: Iterable[ReplicaType], reserved_gpu_fraction: float = 0.0
) -> tuple[Packing, ...]:
    """The patterns of every class for the replica types that it takes, and for what is reserved of one GPU."""
    replicas = tuple(replicas)
    units = round(reserved_gpu_fraction * SHARE_UNITS)
    return tuple(
        Packing(c, tuple(r for r in replicas if c.takes(r)), 0 if c.gpu_type == CPU else units) for c in classes
    )


def maximal_patterns(sizes: Sequence[int], room: int) -> tuple[Pattern, ...]:
    """All multisets of `sizes` (descending, how many of each) that sum to at most `room` and take nothing more.

    Raises ConfigurationError when there are more than MOST_PATTERNS of them.
    """
    if not sizes:
        return ()
    found: list[Pattern] = []

    def extend(chosen: Pattern, left: int) -> None:
        if len(chosen) == len(sizes):
            if left < sizes[-1]:
                found.append(chosen)
            if len(found) > MOST_PATTERNS:
                raise ConfigurationError(
                    f"a GPU can be cut in more than {MOST_PATTERNS} ways; profile fewer different or larger shares"
                )
            return
        size = sizes[len(chosen)]
        for times in range(left // size, -1, -1):
            extend((*chosen, times), left - times * size)

    extend((), room)
    return tuple(found)
