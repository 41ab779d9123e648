"""What is free of every GPU: the one account of shares that plans, replanning and the check of a live cluster keep.

Shares are counted in ten-thousandths of a GPU (SHARE_UNITS), as Ray counts them, so sums are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from apportion.allocation.replica import SHARE_UNITS


@dataclass(frozen=True, order=True)
class Spot:
    """GPUs of one node that have room. left: units that are free on them before; smaller means fuller GPUs."""

    left: int
    gpus: tuple[int, ...]


class FreeGpus:
    """The free units of each GPU by node, while replicas are put there one after another."""

    def __init__(self, n_gpus: Mapping[str, int]) -> None:
        """n_gpus: GPUs of each node, by its name."""
        self._free = {node: [SHARE_UNITS] * number for node, number in n_gpus.items()}

    def free(self, node: str, gpu: int) -> int:
        """Free units of a GPU; below 0 where more is given out than there is."""
        return self._free[node][gpu]

    def used_share(self, node: str, gpu: int) -> float:
        """How much of a GPU is given out: 1 is all of it."""
        return 1 - self._free[node][gpu] / SHARE_UNITS

    def take(self, node: str, gpus: Iterable[int], units: int) -> None:
        """Gives out `units` of each of the GPUs."""
        for gpu in gpus:
            self._free[node][gpu] -= units

    def give_back(self, node: str, gpus: Iterable[int], units: int) -> None:
        """Takes back what `take` gave out."""
        self.take(node, gpus, -units)

    def overfull(self, node: str, gpus: Iterable[int]) -> int | None:
        """The first of the GPUs of which more is given out than there is; None if there is none."""
        return next((gpu for gpu in gpus if self._free[node][gpu] < 0), None)

    def fullest(self, node: str, units: int, number: int = 1) -> Spot | None:
        """The `number` fullest GPUs of the node that have `units` free each; None where fewer have."""
        free = self._free[node]
        able = sorted((gpu for gpu, left in enumerate(free) if left >= units), key=lambda gpu: free[gpu])[:number]
        if len(able) < number:
            return None
        return Spot(sum(free[gpu] for gpu in able), tuple(sorted(able)))
