"""The joint program against brute force and its own full form; what it may not do."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from apportion.allocation.optimise import Optimum, optimise
from apportion.allocation.patterns import maximal_patterns, node_classes, packings
from apportion.allocation.placement import place
from apportion.allocation.plan import check_placements
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.program import joint_program, solve
from apportion.allocation.replica import ReplicaType
from apportion.allocation.sketch import sketch
from apportion.allocation.trim import trim
from apportion.router.assignment.highs import solve_model
from apportion.router.errors import ConfigurationError, InfeasibleError
from tests.allocation.instances import cluster, problem, profile, specs, workload


def test_patterns_are_all_that_take_nothing_more() -> None:
    sizes, room = (5000, 4000, 2500), 10_000
    found = set(maximal_patterns(sizes, room))
    for counts in itertools.product(range(3), range(3), range(5)):
        total = sum(n * s for n, s in zip(counts, sizes, strict=True))
        assert (counts in found) == (room - 2500 < total <= room)
    assert maximal_patterns((), room) == ()
    with pytest.raises(ConfigurationError, match="more than 20000 ways"):
        maximal_patterns(tuple(range(300, 100, -10)), room)


def test_equal_nodes_are_one_class_unless_told_apart() -> None:
    assert [len(c.nodes) for c in node_classes(cluster(5))] == [5]
    assert sorted(len(c.nodes) for c in node_classes(cluster(5), alone=["node-1", "node-3"])) == [1, 1, 3]


def relaxation(given: AllocationProblem, slots: np.ndarray, tokens: np.ndarray) -> float:
    """Best mean success at these capacities by an independent solver; -inf where there is none."""
    n, m = given.success.shape
    rows, limits = [], []
    for k in range(given.n_batches):
        for j in range(m):
            row = np.zeros((n, m))
            row[given.batch == k, j] = 1
            rows.append(row.ravel())
            limits.append(slots[j])
    for j in range(m):
        row = np.zeros((n, m))
        row[:, j] = given.rate_per_s * given.share * given.tokens[:, j]
        rows.append(row.ravel())
        limits.append(given.requirements.target_utilisation * tokens[j])
    if np.isfinite(given.requirements.budget_usd):
        rows.append((given.share[:, None] * given.cost_usd * 1e4).ravel())
        limits.append(given.requirements.budget_usd * 1e4)
    one = np.kron(np.eye(n), np.ones(m))
    value = (given.share[:, None] * given.success).ravel()
    found = linprog(-value, np.array(rows), limits, one, np.ones(n), bounds=(0, 1))
    return -found.fun if found.status == 0 else -np.inf


def can_be_packed(counts: Counter[ReplicaType], n_gpus: int) -> bool:
    """Whether one node holds these replicas, by trying every GPU for every one of them."""
    whole = sum(r.tensor_parallel * n for r, n in counts.items() if r.tensor_parallel > 1)
    shares = [r.units for r, n in counts.items() if r.tensor_parallel == 1 for _ in range(n)]

    def fits(left: tuple[int, ...], rest: list[int]) -> bool:
        if not rest:
            return True
        return any(
            fits((*left[:g], left[g] - rest[0], *left[g + 1 :]), rest[1:])
            for g in range(len(left))
            if left[g] >= rest[0]
        )

    return whole <= n_gpus and fits((10_000,) * (n_gpus - whole), shares)


@pytest.mark.parametrize(("rate_per_s", "budget_usd"), [(2.0, np.inf), (6.0, 2e-4), (7.0, 6e-5)])
def test_the_optimum_is_that_of_brute_force(rate_per_s: float, budget_usd: float) -> None:
    given = problem(
        Requirements(budget_usd=budget_usd, gpu_price=0.002), on=cluster(1, 3), rate_per_s=rate_per_s, size=12, count=2
    )
    few = (
        profile("small", 0.4, 1, 6, 300), profile("small", 1.0, 1, 20, 900),
        profile("mid", 0.4, 1, 4, 200), profile("large", 1.0, 2, 8, 500),
    )  # fmt: skip
    given = replace(given, profiles=few)
    best = -np.inf
    for numbers in itertools.product(range(7), range(4), range(7), range(2)):
        counts = Counter({p.replica: n for p, n in zip(few, numbers, strict=True) if n})
        if not can_be_packed(counts, 3):
            continue
        quality = relaxation(given, given.slots(counts), given.tokens_per_s(counts))
        fewest = next(g for g in range(4) if can_be_packed(counts, g))
        best = max(best, quality - 0.002 * fewest)
    found = optimise(given, gap=1e-7)
    assert found.objective == pytest.approx(best, abs=1e-6)
    assert found.bound >= found.objective - 1e-9


def test_three_shares_of_two_fifths_never_share_a_gpu() -> None:
    # Two GPUs hold four of 0.4, although five would sum to 2.0.
    only = (profile("small", 0.4, 1, 8, 1e6),)
    given = replace(problem(on=cluster(1, 2), size=32, count=1), profiles=only)
    assert optimise(given).replicas[only[0].replica] == 4
    with pytest.raises(InfeasibleError):
        optimise(replace(problem(on=cluster(1, 2), size=33, count=1), profiles=only))


def test_groups_of_gpus_stay_in_one_node() -> None:
    # Two nodes of three GPUs hold two groups of two, although three would be six GPUs.
    only = (profile("small", 1.0, 2, 8, 1e6),)
    given = replace(problem(on=cluster(2, 3), size=16, count=1), profiles=only)
    assert optimise(given).replicas[only[0].replica] == 2
    with pytest.raises(InfeasibleError):
        optimise(replace(problem(on=cluster(2, 3), size=17, count=1), profiles=only))


def checked(given: AllocationProblem, found: Optimum) -> None:
    """Everything that a plan promises, from its assignment."""
    counts = found.replicas
    slots, tokens = given.slots(counts), given.tokens_per_s(counts)
    for k in range(given.n_batches):
        assert (found.x[given.batch == k].sum(axis=0) <= slots + 1e-6).all()
    demand = given.rate_per_s * given.share @ (given.tokens * found.x)
    assert (demand <= given.requirements.target_utilisation * tokens * (1 + 1e-6) + 1e-9).all()
    assert found.x.sum(axis=1) == pytest.approx(np.ones(given.n_requests))
    assert (found.x[~given.allowed] == 0).all()
    assert found.cost_usd <= given.requirements.budget_usd * (1 + 1e-6)
    assert found.quality == pytest.approx(float(given.share @ (given.success * found.x).sum(axis=1)))


def test_a_plan_keeps_what_it_promises_and_can_be_placed() -> None:
    given = problem(
        Requirements(budget_usd=1.5e-4), rate_per_s=20.0, small={"max_model_len": 250}, mid={"min_replicas": 3}
    )
    assert (~given.allowed).any()
    found = trim(given, optimise(given))
    checked(given, found)
    placed = place(found).placed
    check_placements(given.cluster, placed)
    assert Counter(p.replica for p in placed) == found.replicas
    assert sum(n for r, n in found.replicas.items() if r.model == "mid") >= 3


def test_trimming_drops_what_is_idle_and_costs_nothing() -> None:
    given = problem(Requirements(gpu_price=0.0), rate_per_s=0.5, size=10, count=2)
    found = optimise(given, gap=0.2)
    trimmed = trim(given, found)
    checked(given, trimmed)
    assert trimmed.objective >= found.objective
    priced = given.under(Requirements(gpu_price=1e-4))
    assert sum(r.gpus * n for r, n in trim(priced, optimise(priced, gap=0.2)).replicas.items()) <= 8


def test_what_is_free_of_a_gpu_goes_to_the_replicas_on_it() -> None:
    # Two fifths suffice for the load; alone on a GPU they become the whole one, and two of them halves.
    offered = tuple(profile("small", share, 1, 32, 1000 * share) for share in (0.4, 0.5, 1.0))
    whole, half = offered[2].replica, offered[1].replica

    def planned(size: int, running: Counter[ReplicaType]) -> Counter[ReplicaType]:
        requirements = Requirements(gpu_price=0.01, move_price=1e-4, running=running)
        given = problem(requirements, on=cluster(1, 2), size=size, count=1, rate_per_s=0.5)
        given = replace(given, profiles=offered)
        found = trim(given, optimise(given))
        checked(given, found)
        check_placements(given.cluster, place(found).placed)
        return found.replicas

    assert planned(30, Counter()) == Counter([whole])
    assert planned(60, Counter()) == Counter({half: 2})
    # What runs is not stopped for it.
    assert planned(30, Counter([offered[0].replica])) == Counter([offered[0].replica])
    assert planned(60, Counter([offered[0].replica])) == Counter({offered[0].replica: 1, half: 1})


def test_limits_of_replicas_are_kept() -> None:
    free = optimise(problem(rate_per_s=10.0)).replicas
    assert sum(n for r, n in free.items() if r.model == "large") >= 2
    capped = optimise(problem(rate_per_s=10.0, large={"max_replicas": 1}, small={"min_replicas": 2})).replicas
    assert sum(n for r, n in capped.items() if r.model == "large") <= 1
    assert sum(n for r, n in capped.items() if r.model == "small") >= 2


def test_whole_requests_are_worth_as_much_as_split_ones() -> None:
    import pyomo.environ as pyo

    given = problem(Requirements(budget_usd=1.5e-4), rate_per_s=20.0, size=50, count=8)
    packed = packings(node_classes(given.cluster), given.replicas)
    relaxed = solve(joint_program(given, packed), given.success.shape, gap=1e-6, time_limit_s=60)
    assert relaxed.x is not None
    binding = given.n_batches * given.n_models + given.n_models + 1
    split = int(((relaxed.x > 1e-6) & (relaxed.x < 1 - 1e-6)).any(axis=1).sum())
    assert split <= binding
    model = joint_program(given, packed)
    for (replica, c), variable in model.y.items():
        variable.fix(relaxed.counts[replica, c])
    for variable in model.x.values():
        variable.domain = pyo.Binary
    whole = solve_model(model, gap=1e-4, time_limit_s=60)
    assert whole.values is not None
    assert whole.objective >= relaxed.objective - 2e-3


def test_a_sketch_keeps_the_means() -> None:
    given = problem(size=100, count=4)
    small = sketch(given, 30)
    assert small.n_requests <= 30
    assert small.n_batches == 1
    assert small.weight.sum() == pytest.approx(100)
    assert small.share @ small.success == pytest.approx(given.share @ given.success)
    assert small.share @ small.tokens == pytest.approx(given.share @ given.tokens)


def test_a_start_from_a_sketch_leads_to_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem(Requirements(budget_usd=1.5e-4), rate_per_s=40.0, size=50, count=6)
    plain = optimise(given, gap=1e-4)
    monkeypatch.setattr("apportion.allocation.optimise.SKETCH_REQUESTS", 100)
    started = optimise(given, gap=1e-4)
    assert started.objective == pytest.approx(plain.objective, rel=2e-4)
    checked(given, started)


def test_requests_too_long_for_every_model_are_an_error() -> None:
    short = {"max_model_len": 100}
    with pytest.raises(InfeasibleError, match="too long for every model"):
        optimise(problem(small=short, mid=short, large=short))


def test_a_model_that_must_run_needs_a_profile_that_fits() -> None:
    work = workload()
    profiles = [
        profile("small", 1.0, 1, 8, 100.0),
        replace(profile("large", 1.0, 2, 8, 9.0), fits=False, reason="too big"),
    ]
    for kind, message in (("large", "too big"), ("mid", "no profile of it fits")):
        with pytest.raises(ConfigurationError, match=message):
            AllocationProblem.of(
                cluster(), specs(**{kind: {"min_replicas": 1}}), profiles, work, work.batches(10, 1)
            )  # fmt: skip
