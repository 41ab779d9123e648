"""Plans from end to end: availability, replanning, autoscaling, held-out requests, and why there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from apportion.allocation.assess import assess
from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import CPU
from apportion.allocation.infeasible import diagnose
from apportion.allocation.near import moves_between
from apportion.allocation.optimise import optimise
from apportion.allocation.placement import exposed_models
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.planner import PlanOptions, make_plan
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.replica import Profile
from apportion.allocation.report import moves_table, show
from apportion.router.errors import ConfigurationError, InfeasibleError, InvalidRequestError
from tests.allocation.instances import GPU, cluster, problem, profile, profiles, specs, workload

SMALL = {"batch_size": 40, "n_batches": 4}


def plan_for(rate_per_s: float = 10.0, running: tuple = (), **changes: object) -> Plan:
    fields = {k: changes.pop(k) for k in list(changes) if k in Requirements.__dataclass_fields__}
    options = PlanOptions(Requirements(**fields), **SMALL, **changes)
    return make_plan(cluster(), specs(), profiles(), workload(rate_per_s=rate_per_s), options, running=running).plan


def test_every_model_survives_the_death_of_any_node() -> None:
    plain, safe = plan_for(), plan_for(high_availability=True)
    assert exposed_models(plain.placements)
    assert exposed_models(safe.placements) == ()
    assert safe.objective <= plain.bound + 1e-9


def test_nodes_are_told_apart_where_their_patterns_cannot_spread_a_model() -> None:
    # Both groups of three on one node and all groups of two on the other serve 52 requests, some of them by `large`.
    # No arrangement with `large` on both nodes serves more than 40.
    given = (profile("small", 1.0, 2, 12, 500), profile("large", 1.0, 3, 8, 500))
    options = PlanOptions(Requirements(gpu_price=0.0), batch_size=44, n_batches=2)
    free = make_plan(cluster(2, 6), specs(), given, workload(rate_per_s=0.1), options).plan
    assert set(exposed_models(free.placements)) == {"small", "large"}
    options = replace(options, requirements=Requirements(gpu_price=0.0, high_availability=True))
    safe = make_plan(cluster(2, 6), specs(), given, workload(rate_per_s=0.1), options).plan
    assert exposed_models(safe.placements) == ()
    assert {p.replica.model for p in safe.placements} == {"small"}


def test_high_availability_needs_two_nodes() -> None:
    options = PlanOptions(Requirements(high_availability=True), **SMALL)
    with pytest.raises(InfeasibleError, match=r"cannot meet high availability.*add 1 node of 8 x gpu"):
        make_plan(cluster(1, 8), specs(), profiles(), workload(), options)


def test_replanning_moves_only_what_earns_it() -> None:
    before = plan_for(rate_per_s=10.0)
    same = plan_for(rate_per_s=10.0, running=before.placements, move_price=1e-3)
    assert len(moves_between(before.placements, same.placements)) == 0
    fresh = plan_for(rate_per_s=60.0)
    near = plan_for(rate_per_s=60.0, running=before.placements, move_price=1e-3)
    moves = moves_between(before.placements, near.placements)
    assert 0 < len(moves) <= len(moves_between(before.placements, fresh.placements))
    assert Counter(before.placements) - Counter(moves.stopped) + Counter(moves.started) == Counter(near.placements)
    dear = plan_for(rate_per_s=12.0, running=before.placements, move_price=10.0)
    assert len(moves_between(before.placements, dear.placements)) == 0


def test_replanning_without_a_node_restarts_what_was_there() -> None:
    before = plan_for(high_availability=True)
    left = Cluster(before.cluster.nodes[:1], {"gpu": GPU})
    options = PlanOptions(Requirements(move_price=1e-3), **SMALL)
    after = make_plan(left, specs(), profiles(), workload(), options, running=before.placements).plan
    stayed = [p for p in before.placements if p.node == "node-0"]
    kept = sum((Counter(stayed) & Counter(after.placements)).values())
    assert {p.node for p in after.placements} == {"node-0"}
    assert kept >= 1


def test_what_ran_on_a_node_that_is_gone_has_to_be_started() -> None:
    # One replica serves all; two more ran on the node that is gone, and starting them again earns nothing.
    only = (profile("small", 1.0, 1, 64, 1e5),)
    replica = only[0].replica
    running = tuple(PlacedReplica(replica, node, (gpu,)) for node, gpu in (("node-0", 0), ("node-1", 0), ("node-1", 1)))
    options = PlanOptions(Requirements(move_price=1e-3), **SMALL)

    def planned(n_nodes: int) -> Counter[str]:
        made = make_plan(cluster(n_nodes), specs(), only, workload(), options, running=running).plan
        return Counter(placed.node for placed in made.placements)

    assert planned(2) == {"node-0": 1, "node-1": 2}
    assert planned(1) == {"node-0": 1}


def most_free(plan: Plan) -> float:
    """The largest share that any GPU has left."""
    used = Counter({(node.name, gpu): 0.0 for node in plan.cluster.nodes for gpu in range(node.n_gpus)})
    for placed in plan.placements:
        for gpu in placed.gpus:
            used[placed.node, gpu] += placed.replica.gpu_fraction
    return 1 - min(used.values())


@pytest.mark.parametrize(
    ("offered", "most"),
    [
        ((profile("small", 0.5, 1, 20, 1e5), profile("small", 0.25, 1, 8, 1e5)), 140),
        ((profile("large", 1.0, 2, 20, 1e5), profile("large", 1.0, 1, 9, 1e5)), 29),
        ((profile("large", 1.0, 2, 20, 1e5), profile("large", 1.0, 4, 50, 1e5)), 20),
    ],
)
def test_a_reserved_share_stays_free(offered: tuple[Profile, ...], most: int) -> None:
    others = {"small", "mid", "large"} - {offered[0].replica.model}

    def made(reserved: float, batch_size: int, running: tuple[PlacedReplica, ...] = ()) -> Plan:
        needed = Requirements(reserved_gpu_fraction=reserved, move_price=1e-4)
        options = PlanOptions(needed, batch_size=batch_size, n_batches=2)
        models = specs(**{name: {"max_replicas": 0} for name in others})
        return make_plan(cluster(1, 4), models, offered, workload(), options, running=running).plan

    full = made(0.0, most + 1)
    for running in ((), full.placements):
        plan = made(0.3, most, running)
        assert most_free(plan) >= 0.3
        assert plan.settings["reserved_gpu_fraction"] == 0.3
    with pytest.raises(InfeasibleError, match="add 1 node of 4 x gpu"):
        made(0.3, most + 1)


def test_a_reserve_needs_a_gpu() -> None:
    cores = Cluster((Node("a", CPU, 4),), {CPU: replace(GPU, name=CPU)})
    only = (profile("small", 1.0, 1, 64, 1e5, CPU),)
    with pytest.raises(ConfigurationError, match="no GPU to reserve"):
        make_plan(cores, specs(), only, workload(), PlanOptions(Requirements(reserved_gpu_fraction=0.1), **SMALL))


def test_autoscaling_goes_from_the_low_rate_to_what_the_cluster_holds() -> None:
    plan = plan_for(rate_per_s=40.0, low_rate_per_s=4.0, high_rate_per_s=60.0)
    assert all(1 <= b.min_replicas <= plan.counts[b.replica] <= b.max_replicas for b in plan.bounds)
    assert set(plan.counts) == {bound.replica for bound in plan.bounds}
    least, most = (
        sum(number * bound.replica.gpus for bound, number in zip(plan.bounds, numbers, strict=True))
        for numbers in ([b.min_replicas for b in plan.bounds], [b.max_replicas for b in plan.bounds])
    )
    assert least < most <= plan.cluster.n_gpus
    with pytest.raises(InvalidRequestError, match="do not lie around"):
        plan_for(rate_per_s=40.0, low_rate_per_s=50.0, high_rate_per_s=60.0)
    with pytest.raises(InvalidRequestError, match="both or neither"):
        PlanOptions(low_rate_per_s=1.0)


def test_quiet_hours_start_no_type_that_the_plan_has_none_of() -> None:
    """What the high rate alone would have is planned from the beginning: nothing could start the first of a type."""
    for rates in ((12.0, 3.0, 30.0), (5.0, 1.0, 60.0)):
        plan = plan_for(rate_per_s=rates[0], low_rate_per_s=rates[1], high_rate_per_s=rates[2])
        for bound in plan.bounds:
            assert 1 <= bound.min_replicas <= plan.counts[bound.replica] <= bound.max_replicas
    with pytest.raises(InfeasibleError, match="high_rate_per_s: at 4000 requests/s there is no plan"):
        plan_for(rate_per_s=10.0, low_rate_per_s=1.0, high_rate_per_s=4000.0)


def test_held_out_requests_are_tried_at_rising_load() -> None:
    plan = plan_for(rate_per_s=60.0)
    loads = [one.load for one in plan.assessments]
    quality = [one.quality for one in plan.assessments]
    assert loads == [1.0, 1.2, 1.5]
    assert quality == sorted(quality, reverse=True)
    assert plan.assessments[0].refused == pytest.approx(0.0, abs=1e-6)
    few = workload(60)
    assert make_plan(cluster(), specs(), profiles(), few, PlanOptions(**SMALL)).plan.assessments == ()


def test_too_few_replicas_refuse_what_they_cannot_take() -> None:
    given = problem(rate_per_s=10.0, size=40, count=2)
    half = Counter({p.replica: 1 for p in profiles() if p.max_num_seqs == 16 and p.replica.model == "small"})
    found = assess(given, half)
    assert found.refused == pytest.approx(1 - 16 / 40, abs=1e-6)
    assert assess(given, half, 2.0).refused == pytest.approx(1 - 8 / 40, abs=1e-6)


def test_cautious_and_peak_plans_promise_less_and_take_more() -> None:
    work = workload(400, 10.0)
    rng = np.random.default_rng(0)
    bursts = np.sort(np.concatenate([rng.uniform(0, 1000, 200), rng.uniform(400, 460, 200)]))
    work = replace(work, arrival_s=bursts, rate_per_s=0.4)
    make = lambda **changes: make_plan(cluster(), specs(), profiles(), work, PlanOptions(**SMALL, **changes)).plan  # noqa: E731
    mean, cautious, peak = make(), make(quantile=0.1), make(peak=1.0)
    assert cautious.expected_quality < mean.expected_quality
    assert mean.rate_per_s == 0.4
    assert peak.rate_per_s == pytest.approx(work.peak_rate_per_s(1.0))
    assert peak.rate_per_s > 5 * mean.rate_per_s


@pytest.mark.parametrize(
    ("requirements", "rate_per_s", "alone", "kind"),
    [
        (Requirements(budget_usd=1e-5), 10.0, "budget", "budget"),
        (Requirements(), 400.0, "throughput", "rate"),
        (Requirements(), 400.0, "throughput", "nodes"),
    ],
)
def test_the_smallest_relaxation_does_and_a_smaller_one_does_not(
    requirements: Requirements, rate_per_s: float, alone: str, kind: str
) -> None:
    given = problem(requirements, rate_per_s=rate_per_s)
    with pytest.raises(InfeasibleError):
        optimise(given)
    found = diagnose(given)
    assert alone in found.alone
    relaxation = next(r for r in found.relaxations if r.kind == kind)

    def relaxed(amount: float) -> object:
        if kind == "budget":
            return optimise(given.under(replace(requirements, budget_usd=amount)), gap=0.05)
        if kind == "rate":
            return optimise(replace(given, rate_per_s=amount), gap=0.05)
        more = tuple(Node(f"more-{i}", "gpu", 4) for i in range(round(amount)))
        return optimise(replace(given, cluster=Cluster((*given.cluster.nodes, *more), {"gpu": GPU})), gap=0.05)

    assert kind == "nodes" or f" to {relaxation.amount:g} " in relaxation.message
    relaxed(relaxation.amount)
    with pytest.raises(InfeasibleError):
        relaxed(
            {"budget": 0.99 * relaxation.amount, "rate": 1.05 * relaxation.amount, "nodes": relaxation.amount - 1}[kind]
        )


def test_a_request_that_is_too_long_for_every_model_does_not_stop_the_others() -> None:
    work = workload()
    inputs = work.estimates.input_tokens.copy()
    inputs[[3, 70]] = 9000
    long = replace(work, estimates=replace(work.estimates, input_tokens=inputs))
    made = make_plan(cluster(), specs(), profiles(), long, PlanOptions(**SMALL))
    assert made.left_out.tolist() == [3, 70]
    assert made.plan.rate_per_s == pytest.approx(10.0 * 398 / 400)
    assert made.plan.assessments[0].refused == pytest.approx(0.0, abs=1e-6)
    assert not len(make_plan(cluster(), specs(), profiles(), work, PlanOptions(**SMALL)).left_out)
    # A model that could take them but has no replicas does not help.
    far = specs(large={"max_model_len": 20_000})
    without = [one for one in profiles() if one.replica.model != "large"]
    assert make_plan(cluster(), far, without, long, PlanOptions(**SMALL)).left_out.tolist() == [3, 70]


def test_more_requests_at_once_than_slots_are_explained() -> None:
    only = (profile("small", 1.0, 1, 10, 1e6),)
    given = replace(problem(on=cluster(1, 2), size=30, count=2), profiles=only)
    found = diagnose(given)
    assert found.alone == ("concurrency",)
    assert {r.kind: r.amount for r in found.relaxations} == {"batch": 20, "nodes": 1}
    assert "have about 20 requests at once instead of 30" in found.message
    assert "add 1 node of 2 x gpu" in found.message


def test_slots_of_several_models_are_counted_once() -> None:
    seqs = (profile("small", 1.0, 1, 10, 1e6), profile("mid", 1.0, 1, 10, 1e6), profile("large", 1.0, 1, 10, 1e6))
    given = replace(problem(on=cluster(1, 4), size=100, count=2), profiles=seqs)
    found = next(relaxation for relaxation in diagnose(given).relaxations if relaxation.kind == "batch")
    assert found.amount == 40
    work = workload()
    for size, does in ((40, True), (41, False)):
        smaller = AllocationProblem.of(cluster(1, 4), specs(), seqs, work, work.batches(size, 2))
        if does:
            optimise(smaller)
        else:
            with pytest.raises(InfeasibleError):
                optimise(smaller)


def test_a_budget_of_nothing_is_explained() -> None:
    found = diagnose(problem(Requirements(budget_usd=0.0)))
    assert found.alone == ("budget",)
    assert "raise the budget from 0 to " in found.message


def test_an_explanation_that_ran_out_of_time_says_so() -> None:
    assert "the time did not suffice" in diagnose(problem(Requirements(budget_usd=0.0)), time_limit_s=0.0).message


def test_the_report_shows_what_sits_where() -> None:
    plan = plan_for(rate_per_s=30.0, budget_usd=2e-4, low_rate_per_s=3.0, high_rate_per_s=40.0)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(plan, console)
    console.print(moves_table(moves_between(plan.placements, plan.placements[1:])))
    console.file.close()
    text = console.export_text()
    for expected in ("node-0", "utilisation", "Held-out requests", "Autoscaling", "1 to stop, 0 to start"):
        assert expected in text
    assert text.count("1 of 2 GPUs") + text.count("1 of 4 GPUs") > 0
