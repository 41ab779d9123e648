"""What may be asked less of a plan, and whether there is one then: requirements as given, eased, or dropped."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from functools import cached_property

from apportion.allocation.patterns import NodeClass, Packing
from apportion.allocation.problem import AllocationProblem
from apportion.allocation.program import constraints, cost_unit_usd, replicas_by_model
from apportion.router.assignment.highs import PyomoModel, solve_model

# Digits of an amount; rounded so that the printed one still does.
_UP, _DOWN = Context(prec=4, rounding=ROUND_CEILING), Context(prec=4, rounding=ROUND_FLOOR)
_GAP = 1e-4
# Requests at once, in parts of the given ones, that take no slots to speak of.
HARDLY_ANY = 1e-6
# Nodes of one class that may be added, tried one after another.
MORE_NODES = (8, 64, 512, 4096)


class OutOfTimeError(Exception):
    """The search's deadline has passed."""


@dataclass(frozen=True)
class Asked:
    """A problem of which less is asked.

    rate, at_once: parts of the problem's rate and of its requests at once. more: nodes more by the class's number.
    """

    problem: AllocationProblem
    packed: tuple[Packing, ...]
    rate: float = 1.0
    at_once: float = 1.0
    more: tuple[tuple[int, int], ...] = ()

    @property
    def budget_usd(self) -> float:
        return self.problem.requirements.budget_usd

    @property
    def budget_usd_per_hour(self) -> float:
        return self.problem.requirements.budget_usd_per_hour

    def with_budget(self, usd: float) -> Asked:
        return self.under(budget_usd=usd)

    def under(self, **requirements: object) -> Asked:
        """With other requirements."""
        changed = replace(self.problem.requirements, **requirements)  # type: ignore[arg-type]
        return replace(self, problem=self.problem.under(changed))

    def with_limits(self, model: int, least: int, most: int | None) -> Asked:
        """With other numbers of replicas of a model."""
        specs = list(self.problem.models)
        specs[model] = replace(specs[model], min_replicas=least, max_replicas=most)
        return replace(self, problem=replace(self.problem, models=tuple(specs)))

    @cached_property
    def model(self) -> PyomoModel:
        """The joint program without an objective."""
        more = dict(self.more)
        packed = tuple(
            replace(k, node_class=grown_class(k.node_class, more[c])) if c in more else k
            for c, k in enumerate(self.packed)
        )
        problem = replace(
            self.problem, rate_per_s=self.problem.rate_per_s * self.rate, weight=self.problem.weight * self.at_once
        )
        return constraints(problem, packed)


class Search:
    """Feasibility and least amounts; every solve counts against the same deadline."""

    def __init__(self, time_limit_s: float) -> None:
        self._deadline = time.perf_counter() + time_limit_s

    def possible(self, asked: Asked) -> bool:
        """Whether there is a plan for what is asked."""
        return self.least(asked.model, 0.0 * next(iter(asked.model.x.values()))) is not None

    def without(self, model: PyomoModel, row: str) -> bool:
        """Whether there is a plan without these rows."""
        constraint = getattr(model, row)
        constraint.deactivate()
        found = self.least(model, 0.0 * next(iter(model.x.values())))
        constraint.activate()
        return found is not None

    def least(self, model: PyomoModel, expression: object) -> float | None:
        """The least value of an expression, None when nothing keeps the rows."""
        import pyomo.environ as pyo

        left = self._deadline - time.perf_counter()
        if left <= 0:
            raise OutOfTimeError
        model.del_component("least")
        model.least = pyo.Objective(expr=-1.0 * expression, sense=pyo.maximize)  # type: ignore[operator]
        found = solve_model(model, gap=_GAP, time_limit_s=left)
        if found.values is None and not found.infeasible:
            raise OutOfTimeError
        return None if found.values is None else -found.objective

    def budget(self, asked: Asked) -> Asked | None:
        """The least mean cost with which everything else can be met."""
        if math.isinf(asked.budget_usd):
            return None
        model = replace(asked).model
        model.budget.deactivate()
        least = self.least(model, model.budget.body)
        if least is None:
            return None
        usd = least * cost_unit_usd(asked.problem)
        return asked.with_budget(float(_UP.create_decimal_from_float(usd)))

    def bill(self, asked: Asked) -> Asked | None:
        """The least budget per hour with which everything else can be met."""
        given = asked.budget_usd_per_hour
        if math.isinf(given):
            return None
        model = replace(asked).model
        model.bill.deactivate()
        least = self.least(model, model.bill.body)
        if least is None:
            return None
        return asked.under(budget_usd_per_hour=float(_UP.create_decimal_from_float(least * (given or 1.0))))

    def rate(self, asked: Asked) -> Asked | None:
        """The highest rate at which everything else can be met."""
        most = self._highest_rate(asked)
        if most is None or most <= 0:
            return None
        given = asked.problem.rate_per_s
        low, high = 0.0, most
        candidate = most * (1 - _GAP)
        while not self.possible(replace(asked, rate=candidate)):
            # Requests at once bind as well: the rate alone, with its shares, was too hopeful.
            high = candidate
            candidate = (low + high) / 2 if low else high / 4
            if candidate < 1e-9:
                return None
        low = candidate
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self.possible(replace(asked, rate=middle)) else (low, middle)
        return replace(asked, rate=float(_DOWN.create_decimal_from_float(low * given)) / given)

    def _highest_rate(self, asked: Asked) -> float | None:
        """The highest part of the rate if requests at once were no matter: x counts requests in parts of the rate."""
        import pyomo.environ as pyo

        model = replace(asked, rate=1.0).model
        if holds(model, "concurrency"):
            model.concurrency.deactivate()
        model.part = pyo.Var(bounds=(0, 1))
        model.one_model.deactivate()
        model.shares_of_rate = pyo.Constraint(
            list(model.one_model), rule=lambda _, i: model.one_model[i].body == model.part
        )
        if holds(model, "budget"):
            spent, most = model.budget.body, asked.budget_usd / cost_unit_usd(asked.problem)
            model.budget.deactivate()
            model.mean_budget = pyo.Constraint(expr=spent <= most * model.part)
        found = self.least(model, -1.0 * model.part)
        return None if found is None else -found

    def at_once(self, asked: Asked) -> Asked | None:
        """The most requests at once, a whole number, with which everything else can be met."""
        size = at_once_of(asked.problem)
        low, high = 0, round(size)
        if not holds(asked.model, "concurrency") or not self.possible(replace(asked, at_once=HARDLY_ANY)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            serves = self.possible(replace(asked, at_once=middle / size))
            low, high = (middle, high) if serves else (low, middle)
        return replace(asked, at_once=low / size) if low else None

    def nodes(self, asked: Asked) -> Asked | None:
        """The fewest more nodes of one class with which everything can be met; the class that needs the fewest GPUs."""
        best: tuple[int, Asked] | None = None
        for c, packing in enumerate(asked.packed):
            count = self._more_of(asked, c)
            if count:
                gpus = count * packing.node_class.n_gpus
                if best is None or gpus < best[0]:
                    best = (gpus, replace(asked, more=((c, count),)))
        return None if best is None else best[1]

    def _more_of(self, asked: Asked, c: int) -> int | None:
        import pyomo.environ as pyo

        now = len(asked.packed[c].node_class.nodes)
        for most in MORE_NODES:
            model = replace(asked, more=((c, most),)).model
            if c not in model.nodes:
                return None
            model.more = pyo.Var(domain=pyo.NonNegativeIntegers, bounds=(0, most))
            model.nodes[c].deactivate()
            model.elastic = pyo.Constraint(expr=model.nodes[c].body - model.more <= now)
            if hasattr(model, "spread"):
                model.reached = pyo.ConstraintList()
                for key in [key for key in model.spread if key[1] == c]:
                    model.reached.add(model.spread[key] <= now + model.more)
            least = self.least(model, model.more)
            if least is not None:
                return round(least)
        return None

    def replicas(self, asked: Asked, model: int) -> Asked | None:
        """The replicas of a model nearest to its limits with which everything else can be met."""
        spec = asked.problem.models[model]
        free = asked.with_limits(model, 0, None).model
        own = replicas_by_model(free, asked.problem)[model]
        if not own:
            return None
        total = sum(own.values())
        least = self.least(free, total)
        if least is None:
            return None
        if spec.max_replicas is not None and round(least) > spec.max_replicas:
            return asked.with_limits(model, spec.min_replicas, round(least))
        capped = asked.with_limits(model, 0, spec.min_replicas).model
        total = sum(replicas_by_model(capped, asked.problem)[model].values())
        most = self.least(capped, -1.0 * total)
        return None if most is None else asked.with_limits(model, round(-most), spec.max_replicas)


def at_once_of(problem: AllocationProblem) -> float:
    """Requests at once that the problem is for."""
    return float(problem.weight.sum()) / problem.n_batches


def holds(model: PyomoModel, row: str) -> bool:
    """Whether the model has rows of this name."""
    return hasattr(model, row) and len(getattr(model, row)) > 0


def grown_class(node_class: NodeClass, more: int) -> NodeClass:
    """The class with so many nodes more."""
    extra = tuple(replace(node_class.nodes[0], name=f"{node_class.nodes[0].name}+{i}") for i in range(more))
    return replace(node_class, nodes=(*node_class.nodes, *extra))


def limited_models(problem: AllocationProblem) -> Sequence[int]:
    """Numbers of the models whose replicas have a limit."""
    return [j for j, spec in enumerate(problem.models) if spec.min_replicas or spec.max_replicas is not None]
