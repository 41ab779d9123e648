"""The simulator against queueing theory, arithmetic by hand, and a plan's own limits."""

from __future__ import annotations

from dataclasses import replace
from math import factorial

import numpy as np
import pytest

from apportion.allocation.assess import assess
from apportion.allocation.cluster import Cluster, Node
from apportion.allocation.gpus import GPU_TYPES
from apportion.allocation.models import ModelSpec
from apportion.allocation.plan import PlacedReplica, Plan
from apportion.allocation.planner import PlanOptions, make_plan
from apportion.allocation.problem import AllocationProblem, Requirements
from apportion.allocation.replay import Rule, replay
from apportion.allocation.replica import Profile, ReplicaType
from apportion.allocation.simulate import (
    REFUSED,
    WAITS,
    WINDOW_S,
    Simulation,
    Traffic,
    poisson_arrivals,
    simulate,
)
from apportion.allocation.workload import Workload
from apportion.router.errors import InfeasibleError, InvalidRequestError
from apportion.router.estimates import Estimates
from apportion.router.prices import ModelPrice
from tests.allocation import instances

SMALL, LARGE = ReplicaType("small", "L4", 0.5), ReplicaType("large", "L4", 1.0)


def profile(replica: ReplicaType, slots: int, curve: tuple[tuple[int, float], ...], prefill: float = 1e12) -> Profile:
    return Profile(replica, True, slots, curve[-1][1], prefill, 0.01, 1.0, 1.0, "computed", decode_curve=curve)


def plan_of(small: Profile | None = None, large: Profile | None = None, replicas: int = 2, **changes: object) -> Plan:
    placed = [PlacedReplica(SMALL, "a", (gpu,)) for gpu in range(replicas if small else 0)]
    placed += [PlacedReplica(LARGE, "a", (3,))] if large else []
    values = {
        "cluster": Cluster((Node("a", "L4", 4),), GPU_TYPES),
        "models": (ModelSpec("small", "x", ModelPrice(1, 1)), ModelSpec("large", "x", ModelPrice(10, 10))),
        "profiles": tuple(entry for entry in (small, large) if entry),
        "placements": tuple(placed),
        "loads": (),
        "expected_quality": 0.5,
        "expected_cost_usd": 0.0,
        "objective": 0.5,
        "bound": 0.5,
        "gap": 0.0,
        "budget_usd": None,
        "rate_per_s": 10.0,
        "batch_size": 8,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]


def traffic(n: int, tokens_in: float, tokens_out: object, model: int = 0, **how: object) -> Traffic:
    outputs = np.broadcast_to(np.asarray(tokens_out, dtype=float), n).copy()
    return Traffic(np.full(n, model), np.full(n, tokens_in), outputs, **how)  # type: ignore[arg-type]


def test_a_lone_request_takes_its_prompt_and_its_tokens() -> None:
    plan = plan_of(profile(SMALL, 8, ((1, 100.0), (8, 400.0)), prefill=1000.0))
    result = simulate(plan, traffic(1, 500, 100, arrival_s=np.array([3.0])))
    assert result.first_token_s[0] == pytest.approx(0.5 + 0.01)
    assert result.latency_s[0] == pytest.approx(0.5 + 100 * 0.01)
    assert result.waited_s[0] == 0
    assert result.duration_s == pytest.approx(result.latency_s[0])


def test_sequences_that_run_together_slow_each_other_down_as_measured() -> None:
    plan = plan_of(profile(SMALL, 8, ((1, 100.0), (2, 150.0), (8, 400.0))), replicas=1)
    alone = simulate(plan, traffic(1, 1, 60, arrival_s=np.zeros(1)))
    both = simulate(plan, traffic(2, 1, 60, arrival_s=np.zeros(2)))
    assert alone.latency_s[0] == pytest.approx(60 / 100)
    assert both.latency_s == pytest.approx(60 * 2 / 150, rel=0.02)


def test_a_full_engine_is_as_fast_as_its_profile() -> None:
    plan = plan_of(profile(SMALL, 8, ((1, 100.0), (8, 400.0))))
    result = simulate(plan, traffic(4000, 1, 50, concurrency=16))
    summary = result.summary(["small", "large"], deadline_s=60)
    assert summary["tokens_per_s"] == pytest.approx(2 * 400, rel=0.01)
    assert summary["busy_mean"] == pytest.approx(1, abs=0.01)
    assert summary["slots_used_mean"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("servers_each", "rate_per_s"), [(8, 12.0), (4, 7.0)])
def test_waiting_is_what_erlang_says(servers_each: int, rate_per_s: float) -> None:
    """A step that takes the same time however many sequences run is a server each: M/M/c with one queue."""
    n, mean_tokens, step_s = 60_000, 1000, 0.001
    plan = plan_of(profile(SMALL, servers_each, ((1, 1 / step_s), (servers_each, servers_each / step_s))))
    tokens = np.random.default_rng(1).geometric(1 / mean_tokens, n)
    result = simulate(plan, traffic(n, 1, tokens, arrival_s=poisson_arrivals(n, rate_per_s, seed=2)))
    servers, offered = 2 * servers_each, rate_per_s * mean_tokens * step_s
    waits = _erlang_c(servers, offered)
    assert (result.waited_s > 1e-9).mean() == pytest.approx(waits, rel=0.1)
    assert result.waited_s.mean() == pytest.approx(waits * mean_tokens * step_s / (servers - offered), rel=0.12)
    summary = result.summary(["small", "large"], deadline_s=1.0)
    assert summary["queue_mean"] == pytest.approx(rate_per_s * result.waited_s.mean(), rel=0.02)  # Little's law
    assert summary["slots_used_mean"] == pytest.approx(offered / servers, rel=0.03)
    expected_good = (result.latency_s <= 1.0).mean()
    assert summary["within_deadline"] == pytest.approx(expected_good)
    assert summary["goodput_per_s"] == pytest.approx(expected_good * summary["requests_per_s"])


def _erlang_c(servers: int, offered: float) -> float:
    last = offered**servers / factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**k / factorial(k) for k in range(servers)) + last)


def test_overload_grows_a_queue_and_throughput_stays() -> None:
    plan = plan_of(profile(SMALL, 4, ((1, 100.0), (4, 200.0))))
    half, twice = (
        simulate(plan, traffic(2000, 1, 40, arrival_s=poisson_arrivals(2000, rate, seed=0))) for rate in (5.0, 20.0)
    )
    assert half.waited_s.mean() < 0.1
    assert twice.waited_s[-100:].mean() > 20
    assert twice.summary(["small", "large"], 30)["requests_per_s"] == pytest.approx(10, rel=0.02)


def test_prompts_that_are_read_hold_up_the_others() -> None:
    plan = plan_of(profile(SMALL, 8, ((1, 100.0), (8, 800.0)), prefill=1000.0), replicas=1)
    arrivals = np.array([0.0, 0.105])
    result = simulate(plan, Traffic(np.zeros(2, dtype=int), np.array([0.0, 2000.0]), np.array([50.0, 1.0]), arrivals))
    assert result.latency_s[0] == pytest.approx(50 * 0.01 + 2.0)
    assert result.first_token_s[1] == pytest.approx(0.005 + 0.01 + 2.0)


def test_a_step_that_reads_is_longer_by_what_the_profile_says() -> None:
    known = replace(profile(SMALL, 8, ((1, 100.0), (8, 800.0)), prefill=1000.0), prompt_step_s=0.3)
    result = simulate(plan_of(known, replicas=1), traffic(1, 500, 100, arrival_s=np.zeros(1)))
    assert result.first_token_s[0] == pytest.approx(0.5 + 0.3 + 0.01)
    assert result.latency_s[0] == pytest.approx(0.5 + 0.3 + 100 * 0.01)


def test_each_model_has_its_own_queue_and_summary() -> None:
    plan = plan_of(profile(SMALL, 8, ((1, 100.0), (8, 800.0))), profile(LARGE, 1, ((1, 10.0),)))
    n = 200
    model = np.arange(n) % 2
    result = simulate(plan, Traffic(model, np.ones(n), np.full(n, 10.0), poisson_arrivals(n, 10.0, seed=0)))
    summary = result.summary(["small", "large"], deadline_s=5.0)
    assert summary["models"]["small"]["waited_s_p99"] == 0
    assert summary["models"]["large"]["waited_s_p50"] > 10
    assert summary["requests"] == n == sum(part["requests"] for part in summary["models"].values())


def test_a_profile_without_a_curve_has_steps_of_one_length() -> None:
    known = Profile(SMALL, True, 4, 400.0, 1e12, 0.01, 1.0, 1.0, "computed")
    result = simulate(plan_of(known, replicas=1), traffic(1, 1, 10, arrival_s=np.zeros(1)))
    assert result.latency_s[0] == pytest.approx(10 * 4 / 400)


def test_traffic_says_what_is_wrong_with_it() -> None:
    plan = plan_of(profile(SMALL, 8, ((1, 100.0),)))
    with pytest.raises(InvalidRequestError, match="one or the other"):
        traffic(1, 1, 1)
    with pytest.raises(InvalidRequestError, match="at least one"):
        traffic(0, 1, 1, concurrency=1)
    with pytest.raises(InvalidRequestError, match="output_tokens"):
        traffic(1, 1, 0, concurrency=1)
    with pytest.raises(InfeasibleError, match="large, which has no replica"):
        simulate(plan, traffic(1, 1, 1, model=1, concurrency=1))
    with pytest.raises(InvalidRequestError, match="names model 5"):
        simulate(plan, traffic(1, 1, 1, model=5, concurrency=1))


def workload(n: int = 64, arrival_s: np.ndarray | None = None) -> Workload:
    rng = np.random.default_rng(0)
    success = np.column_stack([rng.uniform(0, 0.6, n), rng.uniform(0.4, 1, n)])
    cost_usd = np.column_stack([np.full(n, 1e-5), np.full(n, 1e-4)])
    tokens = np.tile(np.array([[20.0, 30.0]]), (n, 1))
    return Workload(("small", "large"), Estimates(success, cost_usd, tokens, 2 * tokens), 10.0, arrival_s)


def both(**changes: object) -> Plan:
    return plan_of(profile(SMALL, 4, ((1, 100.0), (4, 400.0))), profile(LARGE, 3, ((1, 100.0), (3, 300.0))), **changes)


def route(plan: Plan, work: Workload) -> np.ndarray:
    """What the rule says of batches of eight, each with all slots free."""
    rule = Rule(plan, work, np.arange(len(work)))
    slots = np.zeros(len(plan.models), np.int64)
    for placed in plan.placements:
        slots[placed.replica.model == "large"] += plan.profile(placed.replica).max_num_seqs
    return np.concatenate([rule.choose(rows, slots, slots) for rows in np.split(np.arange(len(work)), len(work) // 8)])


def test_requests_are_assigned_within_slots_and_budget() -> None:
    chosen = route(both(), workload())
    for first in range(0, 64, 8):
        assert (chosen[first : first + 8] == 1).sum() <= 3
    poor = route(both(budget_usd=2.5e-5), workload())
    assert (poor == 1).sum() < (chosen == 1).sum()
    spent = np.where(poor == 1, 1e-4, 1e-5).sum()
    assert 0.9 * 64 * 2.5e-5 < spent <= (64 + 8) * 2.5e-5  # what a batch leaves is there for the next ones
    assert (route(both(budget_usd=1e-6), workload()) == REFUSED).sum() > 40


def test_requests_go_where_slots_are_free_at_that_moment() -> None:
    rule, rows = Rule(both(), workload(), np.arange(64)), np.arange(8)
    slots = np.array([8, 3])
    assert (rule.choose(rows, np.array([8, 0]), slots) == 0).all()
    few = rule.choose(rows, np.array([1, 2]), slots)
    assert sorted(few[:3].tolist()) == [0, 1, 1]
    assert (few[3:] == WAITS).all()
    assert (rule.choose(rows, np.array([0, 0]), slots) == WAITS).all()


def test_a_request_is_only_sent_where_its_prompt_and_answer_fit() -> None:
    given = workload()
    long = np.arange(64) % 8 == 0
    inputs = np.where(long[:, None], 400.0, given.estimates.input_tokens)
    given = replace(given, estimates=replace(given.estimates, input_tokens=inputs))
    small, large = both().models
    narrow = both(models=(small, replace(large, max_model_len=200)))
    assert (route(both(), given)[long] == 1).any()
    chosen = route(narrow, given)
    assert (chosen[long] == 0).all()
    assert (chosen[~long] == 1).any()


def test_a_replay_keeps_the_times_and_takes_the_tokens_of_the_chosen_model() -> None:
    arrivals = np.linspace(0, 6.3, 64)
    played = replay(both(), workload(arrival_s=arrivals), load=2.0)
    assert played.arrival_s == pytest.approx(arrivals / 2)
    found = simulate(both(), played)
    assert set(found.model.tolist()) == {0, 1}
    assert found.output_tokens == pytest.approx(np.where(found.model == 0, 40, 60))
    assert found.waited_s == pytest.approx(np.full(64, WINDOW_S), abs=3 * WINDOW_S)


def test_a_replay_draws_requests_at_the_rate_where_times_are_unknown() -> None:
    drawn = replay(both(), workload(), load=1.5, requests=5000, seed=3)
    assert len(drawn.arrival_s) == 5000
    assert 5000 / drawn.arrival_s[-1] == pytest.approx(15, rel=0.05)
    again = replay(both(), workload(), load=1.5, requests=5000, seed=3)
    assert (drawn.arrival_s == again.arrival_s).all()


def test_each_answer_to_a_request_takes_a_slot_of_its_own() -> None:
    given = workload(arrival_s=np.linspace(0, 6.3, 64))
    answers = np.where(np.arange(64) % 8 == 0, 3, 1)
    found = simulate(both(), replay(both(), replace(given, sequences=answers)))
    assert len(found.model) == answers.sum()
    assert (found.arrival_s[:3] == 0).all()
    assert len(set(found.model[:3].tolist())) == 1
    chosen = route(both(), replace(given, sequences=answers))
    for first in range(0, 64, 8):
        assert answers[first : first + 8][chosen[first : first + 8] == 1].sum() <= 3


def test_a_replay_says_what_is_wrong() -> None:
    plan = both()
    names = ("success", "cost_usd", "input_tokens", "output_tokens")
    other = Workload(("small",), Estimates(*(getattr(workload().estimates, name)[:, :1] for name in names)), 1.0)
    with pytest.raises(InvalidRequestError, match="the plan of small, large"):
        replay(plan, other)
    with pytest.raises(InvalidRequestError, match="above 0"):
        replay(plan, workload(), load=0)
    with pytest.raises(InfeasibleError, match="no replicas"):
        simulate(plan_of(), replay(plan_of(), workload()))


def test_more_load_is_never_faster() -> None:
    def latency(load: float) -> Simulation:
        return simulate(both(), replay(both(), workload(), load=load, requests=3000, seed=1))

    p95 = [np.percentile(latency(load).latency_s, 95) for load in (0.5, 1.0, 1.5)]
    assert p95[0] < 1.01 * p95[1] < 1.01**2 * p95[2]


def test_what_is_planned_is_what_is_replayed() -> None:
    """Refusals of the planner and of a simulation agree at every load, and at the planned one nobody waits.

    `large` is the better model for everybody and has a tenth of the slots: the planner gives it as much as its
    replicas serve, and so does the rule, since it sees which slots are free.
    """
    offered = [
        instances.profile("small", 1.0, 1, 32, 1500.0), instances.profile("large", 1.0, 2, 8, 260.0),
    ]  # fmt: skip
    curves = [((1, 120.0), (8, 700.0), (32, 1500.0)), ((1, 60.0), (8, 260.0))]
    offered = [replace(known, decode_curve=curve) for known, curve in zip(offered, curves, strict=True)]
    work = instances.workload(600, rate_per_s=14.0)
    made = make_plan(
        instances.cluster(1, 4), instances.specs(), offered, work, PlanOptions(Requirements(gpu_price=1e-3))
    ).plan
    for load in (1.0, 1.4, 2.0):
        tried = assess_plan(made, work, load)
        found = simulate(made, replay(made, work, load=load, requests=round(1200 * load), patience_s=5.0, seed=1))
        assert found.refused == pytest.approx(tried, rel=0.1, abs=0.01), load
        if load == 1.0:
            assert np.percentile(found.waited_s, 95) < 0.5


def assess_plan(plan: Plan, work: Workload, load: float) -> float:
    batches = work.batches(100, 6)
    problem = AllocationProblem.of(plan.cluster, plan.models, plan.profiles, work, batches)
    problem = replace(problem, weight=problem.weight * 1e-6)  # requests that come one by one
    return assess(problem, plan.counts, load).refused
