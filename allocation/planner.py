"""From files' contents to a plan: sample, optimise, trim, place, and assess on requests that were held out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from apportion.allocation.assess import LOADS, assess
from apportion.allocation.bill import Bill
from apportion.allocation.cluster import Cluster
from apportion.allocation.expectations import expectations, in_time
from apportion.allocation.infeasible import diagnose
from apportion.allocation.latency import Expected, LatencyBounds
from apportion.allocation.models import ModelSpec
from apportion.allocation.near import place_near, still_there
from apportion.allocation.optimise import DEFAULT_GAP, DEFAULT_TIME_LIMIT_S, Optimum, optimise
from apportion.allocation.placement import Placement, place
from apportion.allocation.plan import Assessment, ModelLoad, PlacedReplica, Plan, ReplicaBounds
from apportion.allocation.problem import AllocationProblem, Requirements, usable_profiles
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.sizing import sized
from apportion.allocation.trades import bill_of, trades
from apportion.allocation.trim import trim
from apportion.allocation.workload import Workload
from apportion.router.arrays import IntArray
from apportion.router.errors import InfeasibleError, InvalidRequestError

HELD_OUT = 0.2
DEFAULT_CACHE_SAFETY = 0.99
# Requests of a sampled batch that stands for no number of requests at once.
SAMPLE = 100
# Times that a plan is made with fewer requests for models whose requests would be late, and how many fewer.
_ATTEMPTS, _FEWER = 6, 0.85
_BOUNDS = ("first_token_s", "token_s", "total_s", "percentile")
# Price of a move between the plan and the plan for the high rate: small beside what either gains.
_CLOSE = 1e-5
_KEPT_REQUIREMENTS = ("target_utilisation", "high_availability", "reserved_gpu_fraction", "gpu_price", "success_usd")
_KEPT_OPTIONS = ("n_batches", "seed", "quantile", "cache_safety", "peak")


@dataclass(frozen=True)
class PlanOptions:
    """How to plan.

    batch_size: requests at once, None: by Little's law; n_batches: how many batches are sampled with `seed`. quantile:
    of the success estimates, None: the mean. peak: plan for the rate that this share of all minutes does not pass,
    None: the mean. latency: that a share of the requests keeps. cache_safety: see `sizing.sized`. low_rate_per_s,
    high_rate_per_s: rates whose needs bound autoscaling, both or none. gap, time_limit_s: of a search. trades: whether
    to look for what a GPU more or less would change, which may take half as long again.
    """

    requirements: Requirements = field(default_factory=Requirements)
    batch_size: int | None = None
    n_batches: int = 20
    seed: int = 0
    quantile: float | None = None
    cache_safety: float = DEFAULT_CACHE_SAFETY
    latency: LatencyBounds = field(default_factory=LatencyBounds)
    peak: float | None = None
    low_rate_per_s: float | None = None
    high_rate_per_s: float | None = None
    gap: float = DEFAULT_GAP
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    trades: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.cache_safety <= 1:
            raise InvalidRequestError(f"cache_safety: {self.cache_safety} is no such chance; give one in [0.5, 1]")
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
        budget_usd_per_hour=float("inf") if plan.budget_usd_per_hour is None else plan.budget_usd_per_hour,
        **{name: settings[name] for name in _KEPT_REQUIREMENTS if name in settings},
    )
    kept = {name: settings[name] for name in _KEPT_OPTIONS if name in settings}
    bounds = {name: math.inf if settings[name] is None else settings[name] for name in _BOUNDS if name in settings}
    batch_size = settings.get("batch_size", plan.batch_size)
    return PlanOptions(requirements, batch_size=batch_size, latency=LatencyBounds(**bounds), **kept)


def _rows_of_a_batch(workload: Workload, options: PlanOptions) -> int:
    """Without a number of requests at once, batches are only samples of what comes."""
    return options.batch_size or min(SAMPLE, len(workload))


@dataclass(frozen=True, eq=False)
class Planned:
    """plan: the result, bill: what it costs; optimum: replicas and assignment behind it; problem: what was solved.

    wall_time_s: in all. left_out: rows of the workload that no model takes, which no plan can serve; the rate is that
    of the others.
    """

    plan: Plan
    bill: Bill
    problem: AllocationProblem
    optimum: Optimum
    wall_time_s: float
    left_out: IntArray


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
    workload, left_out = _servable(workload, cluster, models, profiles)
    planned, held_out = _split(workload, options)
    seen = planned if options.quantile is None else planned.at_quantile(options.quantile)
    batches = seen.batches(_rows_of_a_batch(seen, options), options.n_batches, options.seed)
    profiles = sized(profiles, models, planned, options.cache_safety)
    profiles, rates = in_time(profiles, models, planned, options.latency)
    requirements = options.requirements
    if running:
        there = Counter(one.replica for one in running if still_there(cluster, one))
        requirements = replace(requirements, running=there)
    # Requests at once take no slots of their own unless their number is given: by Little's law as many run as the
    # replicas' speed allows, which the rows on tokens/s say.
    at_once = None if options.batch_size else 1.0
    problem = AllocationProblem.of(
        cluster, models, profiles, seen, batches, requirements, at_once=at_once, in_time=rates
    )
    most = _most(problem, options, running)
    if most is not None:
        problem = _between(problem, most)
    problem, optimum, placement, latencies = _in_time(problem, options, running, seen, batches.ravel())
    bounds = () if most is None else _bounds(problem, options, optimum, most)
    bill = bill_of(problem, optimum)
    assessments: tuple[Assessment, ...] = ()
    if held_out is not None:
        test_batches = held_out.batches(_rows_of_a_batch(held_out, options), options.n_batches, options.seed)
        test = AllocationProblem.of(cluster, models, profiles, held_out, test_batches, requirements, at_once=at_once)
        spent = bill.gpus_usd_per_hour or 0.0
        assessments = tuple(assess(test, optimum.replicas, load, spent) for load in LOADS)
    plan = _plan(problem, optimum, placement, options, bounds, assessments, bill, latencies, inputs or {})
    if options.trades:
        plan = replace(plan, trades=trades(problem, optimum, options.gap, options.time_limit_s / 2))
    return Planned(plan, bill, problem, optimum, time.perf_counter() - started, left_out)


def _in_time(
    problem: AllocationProblem,
    options: PlanOptions,
    running: Sequence[PlacedReplica],
    workload: Workload,
    rows: IntArray,
) -> tuple[AllocationProblem, Optimum, Placement, tuple[Expected, ...]]:
    """The best plan whose own requests keep the bounds on latency.

    How many requests a replica takes in time was found for all requests that its model may get; where the plan gives it
    longer ones, it is planned for fewer.
    """
    for _ in range(_ATTEMPTS):
        optimum, placement = _placed(problem, options, running)
        found = expectations(problem, optimum, workload, rows, options.latency.percentile)
        late = {one.model for one in found if not one.keeps(options.latency)}
        if not late:
            break
        fewer = {r: rate * (_FEWER if r.model in late else 1.0) for r, rate in problem.in_time.items()}
        problem = replace(problem, in_time=fewer)
    return problem, optimum, placement, found


def _at_once(latencies: Sequence[Expected], problem: AllocationProblem, optimum: Optimum) -> int:
    """Requests at once by Little's law; slots where more come than the replicas serve."""
    slots = {spec.name: problem.slots(optimum.replicas)[j] for j, spec in enumerate(problem.models)}
    return max(1, math.ceil(sum(slots[e.model] if e.at_once is None else e.at_once for e in latencies)))


def optimise_or_explain(problem: AllocationProblem, gap: float, time_limit_s: float) -> Optimum:
    """`optimise` and `trim`; where there is no plan, the error says why."""
    try:
        return trim(problem, optimise(problem, gap=gap, time_limit_s=time_limit_s))
    except InfeasibleError as error:
        raise InfeasibleError(diagnose(problem, time_limit_s=time_limit_s).message) from error


def _servable(
    workload: Workload, cluster: Cluster, models: Sequence[ModelSpec], profiles: Sequence[Profile]
) -> tuple[Workload, IntArray]:
    """The requests that some model with a profile or from outside takes, as often as they come; rows of the others."""
    has_profile = {profile.replica.model for profile in usable_profiles(cluster, models, profiles)}
    columns = [j for j, spec in enumerate(models) if spec.name in has_profile or spec.quota is not None]
    served = np.flatnonzero(workload.allowed(models)[:, columns].any(axis=1))
    if len(served) in (0, len(workload)):
        return workload, np.zeros(0, np.int64)
    left_out = np.setdiff1d(np.arange(len(workload)), served)
    return replace(workload.subset(served), rate_per_s=workload.rate_per_s * len(served) / len(workload)), left_out


def _split(workload: Workload, options: PlanOptions) -> tuple[Workload, Workload | None]:
    """Requests to plan with, and held-out ones where there are enough for a batch of each."""
    order = np.random.default_rng([options.seed, len(workload)]).permutation(len(workload))
    held = int(HELD_OUT * len(workload))
    if min(held, len(workload) - held) < (options.batch_size or min(SAMPLE, len(workload) // 10) or 1):
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


def _most(
    problem: AllocationProblem, options: PlanOptions, running: Sequence[PlacedReplica]
) -> Counter[ReplicaType] | None:
    """The replicas that the high rate needs, close to what the planned one would have; None: no rates are given."""
    low_rate, high_rate = options.low_rate_per_s, options.high_rate_per_s
    if low_rate is None or high_rate is None:
        return None
    if not 0 < low_rate <= problem.rate_per_s <= high_rate:
        raise InvalidRequestError(
            f"low_rate_per_s, high_rate_per_s: {low_rate:g} and {high_rate:g} do not lie around the planned rate of "
            f"{problem.rate_per_s:g} requests/s; give a lower and a higher one"
        )
    planned = _placed(problem, options, running)[0].replicas
    close = replace(problem.requirements, running=planned, move_price=max(problem.requirements.move_price, _CLOSE))
    try:
        high = optimise_or_explain(
            replace(problem, rate_per_s=high_rate, requirements=close), options.gap, options.time_limit_s
        )
    except InfeasibleError as error:
        raise InfeasibleError(f"high_rate_per_s: at {high_rate:g} requests/s {error.message}") from error
    return +high.replicas


def _between(problem: AllocationProblem, most: Mapping[ReplicaType, int]) -> AllocationProblem:
    """The problem of a plan that autoscaling can grow to `most` and shrink again.

    One replica of each type always runs: idle engines say nothing about a load that could start the first one.
    """
    within = replace(problem.requirements, at_most=most, at_least=dict.fromkeys(most, 1))
    return problem.under(within)


def _bounds(
    problem: AllocationProblem, options: PlanOptions, optimum: Optimum, most: Mapping[ReplicaType, int]
) -> tuple[ReplicaBounds, ...]:
    """From what the low rate needs of the planned replicas to `most`; so the least is never more than planned."""
    planned = optimum.replicas
    within = replace(problem.requirements, running={}, move_price=0.0, at_most=planned)
    low = replace(problem, rate_per_s=options.low_rate_per_s or problem.rate_per_s, requirements=within)
    few = optimise_or_explain(low, options.gap, options.time_limit_s).replicas
    return tuple(ReplicaBounds(r, few[r], most[r]) for r in sorted(most))


def _loads(problem: AllocationProblem, optimum: Optimum) -> tuple[ModelLoad, ...]:
    slots, capacity = problem.slots(optimum.replicas), problem.tokens_per_s(optimum.replicas)
    share = problem.share @ optimum.x
    demand = problem.rate_per_s * (problem.share @ (problem.tokens * optimum.x))
    # A quota of requests, in tokens of the requests that go there.
    each = np.divide(demand, problem.rate_per_s * share, out=np.zeros_like(demand), where=share > 0)
    limited = np.isfinite(problem.requests_per_s) & (each > 0)
    capacity[limited] = np.minimum(capacity[limited], (problem.requests_per_s[limited] * each[limited]))
    return tuple(
        ModelLoad(
            spec.name,
            float(share[j]),
            int(slots[j]),
            float(demand[j]),
            float(capacity[j]) if np.isfinite(capacity[j]) else None,
        )
        for j, spec in enumerate(problem.models)
    )


def _plan(
    problem: AllocationProblem,
    optimum: Optimum,
    placement: Placement,
    options: PlanOptions,
    bounds: tuple[ReplicaBounds, ...],
    assessments: tuple[Assessment, ...],
    bill: Bill,
    latencies: tuple[Expected, ...],
    inputs: Mapping[str, str],
) -> Plan:
    replicas = optimum.replicas
    mentioned = set(replicas) | {bound.replica for bound in bounds}
    budget, hourly = problem.requirements.budget_usd, problem.requirements.budget_usd_per_hour
    settings = asdict(replace(options, requirements=Requirements()))
    settings.pop("requirements")
    settings |= {name: value if np.isfinite(value) else None for name, value in settings.pop("latency").items()}
    for name in (*_KEPT_REQUIREMENTS, "move_price"):
        settings[name] = getattr(problem.requirements, name)
    return Plan(
        cluster=problem.cluster,
        models=problem.models,
        profiles=tuple(p for p in problem.profiles if p.replica in mentioned),
        placements=placement.placed,
        loads=_loads(problem, optimum),
        expected_quality=optimum.quality,
        expected_cost_usd=optimum.cost_usd,
        objective=optimum.objective,
        bound=max(optimum.bound, optimum.objective),
        gap=optimum.gap,
        budget_usd=budget if np.isfinite(budget) else None,
        budget_usd_per_hour=hourly if np.isfinite(hourly) else None,
        bill=bill,
        rate_per_s=problem.rate_per_s,
        batch_size=options.batch_size or _at_once(latencies, problem, optimum),
        latencies=latencies,
        bounds=bounds,
        assessments=assessments,
        inputs=dict(inputs),
        settings=settings,
    )
