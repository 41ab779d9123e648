"""Placing a new plan close to a running one: what stays stays where it is, what is new goes into the room left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.optimise import Optimum
from apportion.allocation.placement import Placement, exposed_models, place
from apportion.allocation.plan import PlacedReplica
from apportion.allocation.replica import SHARE_UNITS, ReplicaType
from apportion.allocation.room import FreeGpus

# The model's name in what stands for the reserved share of a GPU.
_NOBODY = ""


@dataclass(frozen=True)
class Moves:
    """What has to be done to get from one placement to another; a replica that moves is stopped and started."""

    started: tuple[PlacedReplica, ...]
    stopped: tuple[PlacedReplica, ...]

    def __len__(self) -> int:
        return len(self.started) + len(self.stopped)


def moves_between(before: Iterable[PlacedReplica], after: Iterable[PlacedReplica]) -> Moves:
    """Replicas that are only before, and only after."""
    old, new = Counter(before), Counter(after)
    return Moves(tuple((new - old).elements()), tuple((old - new).elements()))


def place_near(
    cluster: Cluster, optimum: Optimum, running: Sequence[PlacedReplica], high_availability: bool
) -> Placement:
    """The optimum's replicas with as many of the running ones as it has left where they are.

    New replicas are put into free room, replicas that are in their way are moved. Where that fails, or breaks high
    availability, all are placed anew as the optimum's patterns say.
    """
    anew = place(optimum)
    placed = _into_room(cluster, optimum, running)
    if placed is None:
        return anew
    near = Placement(tuple(sorted(placed, key=lambda p: (p.node, p.gpus, p.replica))), exposed_models(placed))
    if high_availability and near.exposed:
        return anew
    return min((near, anew), key=lambda p: len(moves_between(running, p.placed)))


def _into_room(cluster: Cluster, optimum: Optimum, running: Sequence[PlacedReplica]) -> list[PlacedReplica] | None:
    wanted = Counter([*optimum.replicas.elements(), *_reserved(optimum)])
    placed: list[PlacedReplica] = []
    for one in running:
        if wanted[one.replica] and still_there(cluster, one):
            wanted[one.replica] -= 1
            placed.append(one)
    room = Room(cluster, placed)
    waiting = sorted(wanted.elements(), key=_by_size)
    # Every eviction frees room for something larger; the limit only guards against going round in circles.
    for _ in range(4 * (len(waiting) + len(placed)) + 1):
        if not waiting:
            return [one for one in room.placed if one.replica.model != _NOBODY]
        replica = waiting.pop(0)
        spot = room.find(replica)
        if spot is None:
            cleared = room.clear(replica)
            if cleared is None:
                return None
            spot, evicted = cleared
            waiting = sorted([*waiting, *evicted], key=_by_size)
        room.add(PlacedReplica(replica, *spot))
    return None


def _reserved(optimum: Optimum) -> list[ReplicaType]:
    """What is reserved of one GPU, as if it were a replica of a type that the optimum found room on."""
    return [
        ReplicaType(_NOBODY, packing.node_class.gpu_type, packing.reserved / SHARE_UNITS)
        for c, packing in enumerate(optimum.packings)
        if any(k == c and packing.spares(p) for k, p in optimum.gpus)
    ]


def _once(evicted: list[PlacedReplica]) -> list[PlacedReplica]:
    """A replica on several GPUs goes once, though each of its GPUs names it; equal shares of a GPU are several."""
    whole = dict.fromkeys(one for one in evicted if len(one.gpus) > 1)
    return [*whole, *(one for one in evicted if len(one.gpus) == 1)]


def _by_size(replica: ReplicaType) -> tuple[float, ReplicaType]:
    return -replica.gpus, replica


def still_there(cluster: Cluster, one: PlacedReplica) -> bool:
    """Whether the cluster has the place of a replica that was put on it before."""
    return any(
        n.name == one.node and n.gpu_type == one.replica.gpu_type and max(one.gpus) < n.n_gpus for n in cluster.nodes
    )


class Room:
    """What is free of every GPU while replicas are put there one after another."""

    def __init__(self, cluster: Cluster, placed: Sequence[PlacedReplica]) -> None:
        self._nodes = cluster.nodes
        self._free = FreeGpus({node.name: node.n_gpus for node in cluster.nodes})
        self.placed: list[PlacedReplica] = []
        for one in placed:
            self.add(one)

    def add(self, one: PlacedReplica) -> None:
        self.placed.append(one)
        self._free.take(one.node, one.gpus, one.replica.units)

    def find(self, replica: ReplicaType) -> tuple[str, tuple[int, ...]] | None:
        """Where it fits: nodes with the fewest of its model first, then the fullest GPUs."""
        fits = []
        for node in self._matching(replica):
            spot = self._free.fullest(node.name, replica.units, replica.tensor_parallel)
            if spot is not None:
                there = sum(p.replica.model == replica.model for p in self.placed if p.node == node.name)
                fits.append((there, spot.left, node.name, spot.gpus))
        return min(fits)[2:] if fits else None

    def clear(self, replica: ReplicaType) -> tuple[tuple[str, tuple[int, ...]], list[ReplicaType]] | None:
        """Makes room by evicting the fewest smaller replicas; where that was and whom it cost."""
        options = []
        for node in self._matching(replica):
            costs = [(self._evicted(node.name, g, replica), g) for g in range(node.n_gpus)]
            able = sorted(((len(e), g, e) for e, g in costs if e is not None), key=lambda option: option[:2])
            if len(able) >= replica.tensor_parallel:
                chosen = able[: replica.tensor_parallel]
                gone = _once([one for _, _, evicted in chosen for one in evicted])
                options.append((len(gone), node.name, tuple(sorted(g for _, g, _ in chosen)), gone))
        if not options:
            return None
        _, name, gpus, gone = min(options, key=lambda option: option[:3])
        for one in gone:
            self._remove(one)
        return (name, gpus), [one.replica for one in gone]

    def _evicted(self, node: str, gpu: int, replica: ReplicaType) -> list[PlacedReplica] | None:
        """Whom to evict from a GPU so that the replica's share fits, largest first; None where smaller do not do."""
        own = [p for p in self.placed if p.node == node and gpu in p.gpus]
        free, gone = self._free.free(node, gpu), []
        for one in sorted(own, key=lambda p: -p.replica.units):
            if free >= replica.units:
                break
            if one.replica.gpus < replica.gpus:
                gone.append(one)
                free += one.replica.units
        return gone if free >= replica.units else None

    def _remove(self, one: PlacedReplica) -> None:
        self.placed.remove(one)
        self._free.give_back(one.node, one.gpus, one.replica.units)

    def _matching(self, replica: ReplicaType) -> list[Node]:
        return [n for n in self._nodes if n.gpu_type == replica.gpu_type and n.n_gpus >= replica.tensor_parallel]
