"""Why there is no plan: which requirements stand in the way, and the smallest relaxation of each that would do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from apportion.allocation.patterns import NodeClass, Packing, node_classes, packings
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.program import add_assignment, add_packing, add_replica_limits, capacity, cost_unit_usd
from apportion.router.assignment.highs import PyomoModel, solve_model

# A lower rate is found by halving an interval so many times.
_HALVINGS = 6
_MORE_NODES = 8
# Digits of an amount; rounded so that the printed one still does.
_UP, _DOWN = Context(prec=4, rounding=ROUND_CEILING), Context(prec=4, rounding=ROUND_FLOOR)
_ROWS = ("budget", "throughput", "concurrency", "replicas", "available")
_WORDS = {
    "budget": "the cost budget",
    "throughput": "the request rate (tokens/s)",
    "concurrency": "the requests at once (slots for a batch)",
    "replicas": "min_replicas and max_replicas",
    "available": "high availability (two nodes for every model)",
}


@dataclass(frozen=True)
class Relaxation:
    """One change that alone makes a plan possible. kind: budget, rate, batch or nodes; amount: the new value."""

    kind: str
    amount: float
    message: str


@dataclass(frozen=True)
class Diagnosis:
    """alone: requirements without any one of which there would be a plan. relaxations: smallest single changes.

    complete: the time sufficed to look for all of them.
    """

    alone: tuple[str, ...]
    relaxations: tuple[Relaxation, ...]
    complete: bool = True

    @property
    def message(self) -> str:
        """For people: what cannot be met, and what would do."""
        if not (self.complete or self.alone or self.relaxations):
            return "there is no plan for this cluster, and the time did not suffice to say why; allow more time"
        words = " or ".join(_WORDS[row] for row in self.alone)
        reason = f"given all else, it cannot meet {words}" if words else "more than one requirement is out of reach"
        return f"there is no plan for this cluster: {reason}; {self._mend}"

    @property
    def _mend(self) -> str:
        if self.relaxations:
            return f"any one of these would do: {', or '.join(relaxation.message for relaxation in self.relaxations)}"
        if self.alone:
            return "relaxing this alone would do" if len(self.alone) == 1 else "relaxing any one of them would do"
        return "relax several at once"


def diagnose(problem: AllocationProblem, *, time_limit_s: float = 60.0) -> Diagnosis:
    """Examines a problem without a plan; when the time runs out, with what was found by then."""
    packed = packings(node_classes(problem.cluster), problem.replicas, problem.requirements.reserved_gpu_fraction)
    search = _Search(problem, packed, time_limit_s)
    ways: Sequence[Callable[[], Relaxation | None]] = (search.budget, search.nodes, search.batch, search.rate)
    alone: list[str] = []
    relaxations: list[Relaxation] = []
    complete = True
    try:
        alone.extend(row for row in _ROWS if _holds(search.model, row) and search.possible_without(row))
        relaxations.extend(found for way in ways if (found := way()) is not None)
    except _OutOfTimeError:
        complete = False
    return Diagnosis(tuple(alone), tuple(relaxations), complete)


class _OutOfTimeError(Exception):
    """The search's deadline has passed."""


class _Search:
    """Feasibility of one model under changes; every solve counts against the same deadline."""

    def __init__(self, problem: AllocationProblem, packed: tuple[Packing, ...], time_limit_s: float) -> None:
        self._problem, self._packed = problem, packed
        self._deadline = time.perf_counter() + time_limit_s
        self.model = _model(problem, packed)

    def possible_without(self, row: str) -> bool:
        constraint = getattr(self.model, row)
        constraint.deactivate()
        possible = self._least(self.model, 0.0 * next(iter(self.model.x.values()))) is not None
        constraint.activate()
        return possible

    def budget(self) -> Relaxation | None:
        """The least mean cost with which everything else can be met."""
        if not _holds(self.model, "budget"):
            return None
        self.model.budget.deactivate()
        least = self._least(self.model, self.model.budget.body)
        self.model.budget.activate()
        if least is None:
            return None
        given = self._problem.requirements.budget_usd
        usd = float(_UP.create_decimal_from_float(least * cost_unit_usd(self._problem)))
        return Relaxation("budget", usd, f"raise the budget from {given:g} to {usd:g} USD per request")

    def rate(self) -> Relaxation | None:
        """The highest rate at which everything else can be met."""
        if not self._serves(rate=0.0):
            return None
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._serves(rate=middle) else (low, middle)
        if low == 0.0:
            return None
        given = self._problem.rate_per_s
        most = float(_DOWN.create_decimal_from_float(low * given))
        return Relaxation("rate", most, f"lower the rate from {given:g} to {most:g} requests/s")

    def batch(self) -> Relaxation | None:
        """The most requests at once, a whole number, with which everything else can be met."""
        if not self.possible_without("concurrency"):
            return None
        size = round(float(self._problem.weight.sum()) / self._problem.n_batches)
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._serves(at_once=middle / size) else (low, middle)
        return Relaxation("batch", low, f"have about {low} requests at once instead of {size}") if low else None

    def nodes(self) -> Relaxation | None:
        """The fewest more nodes of one class with which everything can be met; the class that needs the fewest GPUs."""
        import pyomo.environ as pyo

        best: tuple[int, int, NodeClass] | None = None
        for c, packing in enumerate(self._packed):
            node_class = packing.node_class
            more = _MORE_NODES * len(node_class.nodes)
            grown = tuple(
                replace(k, node_class=_grown(k.node_class, more)) if i == c else k for i, k in enumerate(self._packed)
            )
            model = _model(self._problem, grown)
            model.more = pyo.Var(domain=pyo.NonNegativeIntegers, bounds=(0, more))
            if c not in model.nodes:
                continue
            model.nodes[c].deactivate()
            model.elastic = pyo.Constraint(expr=model.nodes[c].body - model.more <= len(node_class.nodes))
            if hasattr(model, "spread"):
                now = len(node_class.nodes)
                model.reached = pyo.ConstraintList()
                for key in [key for key in model.spread if key[1] == c]:
                    model.reached.add(model.spread[key] <= now + model.more)
            least = self._least(model, model.more)
            if least is not None:
                count = round(least)
                gpus = count * node_class.n_gpus
                if count and (best is None or gpus < best[0]):
                    best = (gpus, count, node_class)
        if best is None:
            return None
        gpus, count, node_class = best
        words = f"add {count} node{'s' * (count > 1)} of {node_class.n_gpus} x {node_class.gpu_type}"
        return Relaxation("nodes", count, words)

    def _serves(self, rate: float = 1.0, at_once: float = 1.0) -> bool:
        """Whether there is a plan for these parts of the rate and of the requests at once."""
        problem = self._problem
        part = replace(problem, rate_per_s=problem.rate_per_s * rate, weight=problem.weight * at_once)
        model = _model(part, self._packed)
        return self._least(model, 0.0 * next(iter(model.x.values()))) is not None

    def _least(self, model: PyomoModel, expression: object) -> float | None:
        """The least value of an expression, None when nothing keeps the rows."""
        import pyomo.environ as pyo

        left = self._deadline - time.perf_counter()
        if left <= 0:
            raise _OutOfTimeError
        model.del_component("least")
        model.least = pyo.Objective(expr=-1.0 * expression, sense=pyo.maximize)  # type: ignore[operator]
        found = solve_model(model, gap=1e-3, time_limit_s=left)
        if found.values is None and not found.infeasible:
            raise _OutOfTimeError
        return None if found.values is None else -found.objective


def _model(problem: AllocationProblem, packed: tuple[Packing, ...]) -> PyomoModel:
    """The joint program without an objective."""
    import pyomo.environ as pyo

    model = pyo.ConcreteModel()
    add_packing(model, packed)
    add_replica_limits(model, problem, packed)
    add_assignment(model, problem, *capacity(model, problem))
    return model


def _holds(model: PyomoModel, row: str) -> bool:
    return hasattr(model, row) and len(getattr(model, row)) > 0


def _grown(node_class: NodeClass, more: int) -> NodeClass:
    extra = tuple(replace(node_class.nodes[0], name=f"{node_class.nodes[0].name}+{i}") for i in range(more))
    return replace(node_class, nodes=(*node_class.nodes, *extra))
