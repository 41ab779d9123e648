"""From how many GPUs follow which pattern to which replica sits on which GPU of which node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from apportion.allocation.optimise import Optimum
from apportion.allocation.patterns import Packing
from apportion.allocation.plan import PlacedReplica
from apportion.allocation.replica import SHARE_UNITS, ReplicaType

# One place: a node's name and the numbers of the GPUs that a replica takes there.
Place = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Placement:
    """placed: every replica. exposed: models of which one node holds every replica."""

    placed: tuple[PlacedReplica, ...]
    exposed: tuple[str, ...]


def place(optimum: Optimum) -> Placement:
    """Puts every replica of the optimum on GPUs, each model's over as many nodes as its places allow."""
    placed: list[PlacedReplica] = []
    spread: dict[str, Counter[str]] = defaultdict(Counter)
    for c, packing in enumerate(optimum.packings):
        places = _places(packing, c, optimum)
        waiting = [r for (r, k), n in optimum.counts.items() if k == c for _ in range(n)]
        # Models with few replicas choose first: they have the fewest ways to be on two nodes.
        few = Counter(r.model for r in waiting)
        for replica in sorted(waiting, key=lambda r: (few[r.model], r)):
            free = places[replica.tensor_parallel, replica.units]
            best = min(range(len(free)), key=lambda i: (spread[replica.model][free[i][0]], i))
            node, gpus = free.pop(best)
            spread[replica.model][node] += 1
            placed.append(PlacedReplica(replica, node, gpus))
    placed = _spread_by_swaps(placed)
    placed.sort(key=lambda p: (p.node, p.gpus, p.replica))
    return Placement(tuple(placed), exposed_models(placed))


def exposed_models(placed: Sequence[PlacedReplica]) -> tuple[str, ...]:
    """Models that lose all their replicas when one node dies."""
    nodes: dict[str, set[str]] = defaultdict(set)
    for one in placed:
        nodes[one.replica.model].add(one.node)
    return tuple(sorted(model for model, own in nodes.items() if len(own) == 1))


def _places(packing: Packing, c: int, optimum: Optimum) -> dict[tuple[int, int], list[Place]]:
    """By (GPUs, share of each) the places that the patterns give, alternating between nodes."""
    node_patterns = [packing.node_patterns[q] for (k, q), n in optimum.nodes.items() if k == c for _ in range(n)]
    groups: dict[int, list[Place]] = defaultdict(list)
    for node, pattern in zip(packing.node_class.nodes, node_patterns, strict=False):
        first = 0
        for size, times in zip(packing.groups, pattern, strict=True):
            for _ in range(times):
                groups[size].append((node.name, tuple(range(first, first + size))))
                first += size
    places: dict[tuple[int, int], list[Place]] = defaultdict(list)
    for size, found in groups.items():
        if size > 1:
            places[size, SHARE_UNITS].extend(found)
    gpus = iter(_alternating(groups[1]))
    for pattern in [packing.gpu_patterns[p] for (k, p), n in sorted(optimum.gpus.items()) if k == c for _ in range(n)]:
        gpu = next(gpus)
        for share, times in zip(packing.shares, pattern, strict=True):
            places[1, share].extend([gpu] * times)
    return places


def _alternating(places: Sequence[Place]) -> list[Place]:
    """The first of every node, then the second of every node, ..."""
    by_node: dict[str, list[Place]] = defaultdict(list)
    for one in places:
        by_node[one[0]].append(one)
    longest = max(map(len, by_node.values()), default=0)
    return [own[i] for i in range(longest) for own in by_node.values() if i < len(own)]


def _spread_by_swaps(placed: list[PlacedReplica]) -> list[PlacedReplica]:
    """Swaps equally large replicas of different models while that takes a model off a single node."""
    placed = list(placed)
    for model in exposed_models(placed):
        own = [i for i, p in enumerate(placed) if p.replica.model == model]
        if len(own) > 1:
            _swap_out(placed, own)
    return placed


def _swap_out(placed: list[PlacedReplica], own: list[int]) -> None:
    home = placed[own[0]].node
    before = len(exposed_models(placed))
    for i in own:
        for j, other in enumerate(placed):
            mine = placed[i]
            if other.node == home or _size(other.replica) != _size(mine.replica):
                continue
            placed[i] = PlacedReplica(mine.replica, other.node, other.gpus)
            placed[j] = PlacedReplica(other.replica, mine.node, mine.gpus)
            if len(exposed_models(placed)) < before:
                return
            placed[i], placed[j] = mine, other


def _size(replica: ReplicaType) -> tuple[str, int, int]:
    return replica.gpu_type, replica.tensor_parallel, replica.units
