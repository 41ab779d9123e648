"""Greedy over the batch: everything on its cheapest free model, then the best upgrades per USD."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from .moves import fit_slots, upgrade
from .outcome import Assignment, Prices
from .per_request import best
from .problem import BatchProblem
from .repair import enforce_choice


@dataclass(frozen=True)
class Greedy:
    """Starts on the cheapest models and buys the most success per USD while slots and budget last."""

    name: ClassVar[str] = "greedy"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        started = time.perf_counter()
        model = fit_slots(problem, -problem.cost_usd, best(problem, -problem.cost_usd))
        return enforce_choice(problem, upgrade(problem, problem.value, model), self.name, started)
