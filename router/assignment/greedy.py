"""Greedy over the batch: everything on its cheapest free model, then the best upgrades per USD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from apportion.router.assignment.moves import fit_rows, fit_slots, upgrade
from apportion.router.assignment.outcome import Assignment, Prices
from apportion.router.assignment.per_request import best
from apportion.router.assignment.problem import BatchProblem
from apportion.router.assignment.program import Program
from apportion.router.assignment.repair import enforce_choice
from apportion.router.assignment.strategy import TimeLimited


@dataclass(frozen=True)
class Greedy(TimeLimited):
    """Start on the cheapest models and buy the most success per USD while slots and budget last.

    The solver is asked, for as long as the time limit allows, only where moving requests finds no assignment.
    """

    name: ClassVar[str] = "greedy"

    def choose(self, problem: BatchProblem, *, warm: Prices | None, seed: int) -> Assignment:
        program = Program.of(problem)
        model = fit_rows(program, fit_slots(program, best(problem, -problem.cost_usd), -problem.cost_usd))
        if program.keeps(model):
            model = upgrade(program, model)
        return enforce_choice(problem, model, self.name, time_limit_s=self.time_limit_s)
