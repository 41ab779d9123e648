"""From files' contents to a plan: sample, optimise, trim, place, and assess on requests that were held out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from apportion.allocation.assess import LOADS, assess
from apportion.allocation.cluster import Cluster
from apportion.allocation.infeasible import diagnose
from apportion.allocation.models import ModelSpec
from apportion.allocation.near import place_near, still_there
from apportion.allocation.optimise import DEFAULT_GAP, DEFAULT_TIME_LIMIT_S, Optimum, optimise
from apportion.allocation.placement import Placement, place
from apportion.allocation.plan import Assessment, ModelLoad, PlacedReplica, Plan, ReplicaBounds
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.trim import trim
from apportion.allocation.workload import Workload
from apportion.router.arrays import IntArray
from apportion.router.errors import InfeasibleError, InvalidRequestError

HELD_OUT = 0.2
# Price of a move between the plan and the plan for the high rate: small beside what either gains.
_CLOSE = 1e-5
_KEPT_REQUIREMENTS = ("target_utilisation", "high_availability", "reserved_gpu_fraction", "gpu_price")
_KEPT_OPTIONS = ("n_batches", "seed", "quantile", "peak")


@dataclass(frozen=True)
class PlanOptions:
    """How to plan.

    batch_size: requests at once; n_batches: how many batches are sampled with `seed`. quantile: of the success
    estimates, None: the mean. peak: plan for the rate that this share of all minutes does not pass, None: the mean.
    low_rate_per_s, high_rate_per_s: rates whose needs bound autoscaling, both or none. gap, time_limit_s: of a search.
    """

    requirements: Requirements = field(default_factory=Requirements)
    batch_size: int = 100
    n_batches: int = 20
    seed: int = 0
    quantile: float | None = None
    peak: float | None = None
    low_rate_per_s: float | None = None
    high_rate_per_s: float | None = None
    gap: float = DEFAULT_GAP
    time_limit_s: float = DEFAULT_TIME_LIMIT_S

    def __post_init__(self) -> None:
        if (self.low_rate_per_s is None) != (self.high_rate_per_s is None):
            raise InvalidRequestError(
                "low_rate_per_s, high_rate_per_s: autoscaling needs both rates; give both or neither"
            )


def options_of(plan: Plan) -> PlanOptions:
    """What a plan was made with: requirements, batches and caution.

    Rates for autoscaling, the price of moves and the limits of the search belong to one planning only; they have their
    defaults.
    """
    settings: Mapping[str, Any] = plan.settings
    requirements = Requirements(
        budget_usd=float("inf") if plan.budget_usd is None else plan.budget_usd,
        **{name: settings[name] for name in _KEPT_REQUIREMENTS if name in settings},
    )
    kept = {name: settings[name] for name in _KEPT_OPTIONS if name in settings}
    return PlanOptions(requirements, batch_size=plan.batch_size, **kept)


@dataclass(frozen=True, eq=False)
class Planned:
    """plan: the result; optimum: replicas and assignment behind it; problem: what was solved; wall_time_s: in all."""

    plan: Plan
    problem: AllocationProblem
    optimum: Optimum
    wall_time_s: float


def make_plan(
    cluster: Cluster,
    models: Sequence[ModelSpec],
    profiles: Sequence[Profile],
    workload: Workload,
    options: PlanOptions | None = None,
    *,
    running: Sequence[PlacedReplica] = (),
    inputs: Mapping[str, str] | None = None,
) -> Planned:
    """The best plan for the workload, close to the running replicas, as far as the cluster still has their places.

    Raises InfeasibleError naming what cannot be met and what would do; DeadlineError when no plan was found in time;
    ConfigurationError for profiles or models that do not go together with the cluster.
    """
    started = time.perf_counter()
    options = options or PlanOptions()
    if options.peak is not None:
        workload = replace(workload, rate_per_s=workload.peak_rate_per_s(options.peak))
    planned, held_out = _split(workload, options)
    seen = planned if options.quantile is None else planned.at_quantile(options.quantile)
    batches = seen.batches(options.batch_size, options.n_batches, options.seed)
    requirements = options.requirements
    if running:
        there = Counter(one.replica for one in running if still_there(cluster, one))
        requirements = replace(requirements, running=there)
    problem = AllocationProblem.of(cluster, models, profiles, seen, batches, requirements)
    optimum, placement = _placed(problem, options, running)
    bounds = _bounds(problem, options, optimum.replicas)
    assessments: tuple[Assessment, ...] = ()
    if held_out is not None:
        test_batches = held_out.batches(options.batch_size, options.n_batches, options.seed)
        test = AllocationProblem.of(cluster, models, profiles, held_out, test_batches, requirements)
        assessments = tuple(assess(test, optimum.replicas, load) for load in LOADS)
    plan = _plan(problem, optimum, placement, options, bounds, assessments, inputs or {})
    return Planned(plan, problem, optimum, time.perf_counter() - started)


def optimise_or_explain(problem: AllocationProblem, gap: float, time_limit_s: float) -> Optimum:
    """`optimise` and `trim`; where there is no plan, the error says why."""
    try:
        return trim(problem, optimise(problem, gap=gap, time_limit_s=time_limit_s))
    except InfeasibleError as error:
        raise InfeasibleError(diagnose(problem, time_limit_s=time_limit_s).message) from error


def _split(workload: Workload, options: PlanOptions) -> tuple[Workload, Workload | None]:
    """Requests to plan with, and held-out ones where there are enough for a batch of each."""
    order = np.random.default_rng([options.seed, len(workload)]).permutation(len(workload))
    held = int(HELD_OUT * len(workload))
    if min(held, len(workload) - held) < options.batch_size:
        return workload, None
    rows: tuple[IntArray, IntArray] = (np.sort(order[held:]), np.sort(order[:held]))
    return workload.subset(rows[0]), workload.subset(rows[1])


def _placed(
    problem: AllocationProblem, options: PlanOptions, running: Sequence[PlacedReplica]
) -> tuple[Optimum, Placement]:
    optimum = optimise_or_explain(problem, options.gap, options.time_limit_s)
    wanted = problem.requirements.high_availability
    placement = _place(problem, optimum, running)
    alone: set[str] = set()
    while wanted and placement.exposed:
        # Equal nodes were told apart too little to keep these models on two of them: look at each node by itself.
        concerned = {
            node.name
            for (replica, c), _ in optimum.counts.items()
            for node in optimum.packings[c].node_class.nodes
            if replica.model in placement.exposed
        }
        if concerned <= alone:
            raise AssertionError(f"{placement.exposed} are on one node, though every node was a class of its own")
        alone |= concerned
        try:
            found = optimise(problem, gap=options.gap, time_limit_s=options.time_limit_s, alone=alone)
        except InfeasibleError as error:
            raise InfeasibleError(
                f"no arrangement keeps {', '.join(placement.exposed)} and all else on two nodes each; add a node, "
                "profile smaller shares, or plan without high availability"
            ) from error
        optimum = trim(problem, found)
        placement = _place(problem, optimum, running)
    return optimum, placement


def _place(problem: AllocationProblem, optimum: Optimum, running: Sequence[PlacedReplica]) -> Placement:
    if not running:
        return place(optimum)
    return place_near(problem.cluster, optimum, running, problem.requirements.high_availability)


def _bounds(
    problem: AllocationProblem, options: PlanOptions, planned: Mapping[ReplicaType, int]
) -> tuple[ReplicaBounds, ...]:
    """The most is a plan for the high rate close to this one, the least one for the low rate within that.

    A type has bounds only where the high rate's plan has replicas of it: so all maxima fit the cluster together.
    """
    low_rate, high_rate = options.low_rate_per_s, options.high_rate_per_s
    if low_rate is None or high_rate is None:
        return ()
    if not 0 < low_rate <= problem.rate_per_s <= high_rate:
        raise InvalidRequestError(
            f"low_rate_per_s, high_rate_per_s: {low_rate:g} and {high_rate:g} do not lie around the planned rate of "
            f"{problem.rate_per_s:g} requests/s; give a lower and a higher one"
        )
    close = replace(problem.requirements, running=planned, move_price=max(problem.requirements.move_price, _CLOSE))
    high = replace(problem, rate_per_s=high_rate, requirements=close)
    many = +optimise_or_explain(high, options.gap, options.time_limit_s).replicas
    within = replace(problem.requirements, running={}, move_price=0.0, at_most=many)
    low = replace(problem, rate_per_s=low_rate, requirements=within)
    few = optimise_or_explain(low, options.gap, options.time_limit_s).replicas
    return tuple(ReplicaBounds(r, few[r], many[r]) for r in sorted(many))


def _plan(
    problem: AllocationProblem,
    optimum: Optimum,
    placement: Placement,
    options: PlanOptions,
    bounds: tuple[ReplicaBounds, ...],
    assessments: tuple[Assessment, ...],
    inputs: Mapping[str, str],
) -> Plan:
    replicas = optimum.replicas
    mentioned = set(replicas) | {bound.replica for bound in bounds}
    slots, capacity = problem.slots(replicas), problem.tokens_per_s(replicas)
    share = problem.share @ optimum.x
    demand = problem.rate_per_s * (problem.share @ (problem.tokens * optimum.x))
    budget = problem.requirements.budget_usd
    settings = asdict(replace(options, requirements=Requirements()))
    settings.pop("requirements")
    for name in (*_KEPT_REQUIREMENTS, "move_price"):
        settings[name] = getattr(problem.requirements, name)
    return Plan(
        cluster=problem.cluster,
        models=problem.models,
        profiles=tuple(p for p in problem.profiles if p.replica in mentioned),
        placements=placement.placed,
        loads=tuple(
            ModelLoad(spec.name, float(share[j]), int(slots[j]), float(demand[j]), float(capacity[j]))
            for j, spec in enumerate(problem.models)
        ),
        expected_quality=optimum.quality,
        expected_cost_usd=optimum.cost_usd,
        objective=optimum.objective,
        bound=max(optimum.bound, optimum.objective),
        gap=optimum.gap,
        budget_usd=budget if np.isfinite(budget) else None,
        rate_per_s=problem.rate_per_s,
        batch_size=options.batch_size,
        bounds=bounds,
        assessments=assessments,
        inputs=dict(inputs),
        settings=settings,
    )
