"""What is advised where there is no plan does what it says, and less of it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.infeasible import Relaxation, diagnose
from apportion.allocation.optimise import optimise
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.router.errors import InfeasibleError
from tests.allocation.instances import GPU, problem, profile

NAMES = ("small", "mid", "large")
# Instances that are looked at in every run; `instances(range(250))` was looked at once.
SEEDS = range(14)


def instance(seed: int) -> AllocationProblem:
    """A small problem that often has no plan: too few GPUs, too little money, too many requests, limits of replicas."""
    rng = np.random.default_rng(seed)
    limits: dict[str, dict[str, object]] = {name: {} for name in NAMES}
    if rng.random() < 0.35:
        limits[str(rng.choice(NAMES))]["min_replicas"] = int(rng.integers(2, 30))
    if rng.random() < 0.35:
        name = str(rng.choice(NAMES))
        limits[name]["max_replicas"] = int(limits[name].get("min_replicas", 0)) + int(rng.integers(0, 2))
    requirements = Requirements(
        budget_usd=float(rng.choice([np.inf, 1e-4, 4e-5, 1.5e-5])), high_availability=bool(rng.random() < 0.25)
    )
    given = problem(
        requirements,
        on=Cluster(tuple(Node(f"node-{i}", "gpu", 2) for i in range(int(rng.integers(1, 3)))), {"gpu": GPU}),
        rate_per_s=float(rng.choice([0.5, 5.0, 40.0, 2000.0])),
        size=int(rng.choice([4, 12, 24])),
        count=1,
        **limits,
    )
    some = (
        profile("small", 0.4, 1, 6, 300), profile("small", 1.0, 1, 20, 900),
        profile("mid", 0.5, 1, 4, 200), profile("large", 1.0, 2, 8, 500),
    )  # fmt: skip
    return replace(given, profiles=some)


def changed(given: AllocationProblem, changes: Sequence[Relaxation], less: float = 0.0) -> AllocationProblem:
    """The problem with all the changes; less: by so much, or by one where they are whole numbers, smaller ones."""
    rows = given.n_requests / given.n_batches
    for one in changes:
        if one.kind == "budget":
            usd = one.amount * (1 - less)
            given = given.under(replace(given.requirements, budget_usd=usd))
        elif one.kind == "rate":
            given = replace(given, rate_per_s=one.amount * (1 + less))
        elif one.kind == "batch":
            given = replace(given, weight=np.full(given.n_requests, (one.amount + (less > 0)) / rows))
        elif one.kind == "nodes":
            more = tuple(Node(f"more-{i}", "gpu", 2) for i in range(round(one.amount) - (less > 0)))
            given = replace(given, cluster=Cluster((*given.cluster.nodes, *more), {"gpu": GPU}))
        elif one.kind == "availability":
            given = given.under(replace(given.requirements, high_availability=less > 0))
        else:
            column = NAMES.index(one.where)
            specs = list(given.models)
            spec = specs[column]
            if one.amount < spec.min_replicas:
                specs[column] = replace(spec, min_replicas=round(one.amount) + (less > 0))
            else:
                specs[column] = replace(spec, max_replicas=round(one.amount) - (less > 0))
            given = replace(given, models=tuple(specs))
    return given


def possible(given: AllocationProblem) -> bool:
    try:
        optimise(given, gap=0.5)
    except InfeasibleError:
        return False
    return True


def look_at(seed: int) -> int:
    """How many pieces of advice were tried for the instance; 0: it has a plan."""
    given = instance(seed)
    if possible(given):
        return 0
    found = diagnose(given)
    assert found.complete
    for one in found.relaxations:
        assert possible(changed(given, [one])), (seed, one)
        assert not possible(changed(given, [one], less=2e-3)), (seed, one)
    for changes in found.together:
        assert len(changes) > 1
        assert possible(changed(given, changes)), (seed, changes)
        for one in changes:
            others = [other for other in changes if other is not one]
            smaller = changed(changed(given, others), [one], less=4e-3)
            assert not possible(smaller), (seed, one, changes)
    assert found.relaxations or found.together, (seed, found.message)
    assert all(one.message in found.message for one in found.relaxations)
    return len(found.relaxations) + len(found.together)


def test_every_advice_does_and_less_of_it_does_not() -> None:
    tried = [look_at(seed) for seed in SEEDS]
    assert sum(number > 0 for number in tried) >= 8


def test_two_requirements_out_of_reach_are_told_with_amounts_for_both() -> None:
    given = problem(Requirements(budget_usd=1e-5), rate_per_s=400.0)
    found = diagnose(given)
    assert (found.alone, found.relaxations) == ((), ())
    kinds = [[one.kind for one in changes] for changes in found.together]
    assert kinds == [["budget", "nodes"], ["budget", "rate"]]
    assert "raise the budget from 1e-05 to " in found.message
    assert " and add " in found.message
    assert " and lower the rate from 400 to " in found.message


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"large": {"min_replicas": 300}}, "lower min_replicas of 'large' from 300 to 2"),
        (
            {"small": {"max_replicas": 1}, "mid": {"max_replicas": 0}, "large": {"max_replicas": 0}},
            "raise max_replicas of 'small' from 1 to 4",
        ),
    ],
)
def test_limits_of_replicas_are_told_with_their_numbers(limits: dict[str, dict[str, object]], says: str) -> None:
    given = problem(on=Cluster((Node("a", "gpu", 4),), {"gpu": GPU}), size=40, count=1, rate_per_s=0.5, **limits)
    only = (profile("small", 1.0, 1, 10, 1e4), profile("mid", 1.0, 1, 10, 1e4), profile("large", 1.0, 2, 20, 1e4))
    assert says in diagnose(replace(given, profiles=only)).message


def test_a_rate_far_below_and_nodes_far_beyond_are_found() -> None:
    only = (profile("small", 1.0, 1, 64, 10.0),)
    given = replace(
        problem(on=Cluster((Node("a", "gpu", 1),), {"gpu": GPU}), size=8, count=1, rate_per_s=50.0), profiles=only
    )
    amounts = {one.kind: one.amount for one in diagnose(given).relaxations}
    need = float(given.share @ given.tokens[:, 0])
    assert amounts["rate"] == pytest.approx(0.8 * 10.0 / need, rel=1e-3)
    assert amounts["rate"] < 50 / 640
    assert amounts["nodes"] == np.ceil(50 * need / 8) - 1 > 8
