"""Latency as the plan expects it: against the simulator, and as a bound that the plan keeps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from apportion.allocation.latency import Expected, LatencyBounds, Queue, expected, within
from apportion.allocation.plan import Plan
from apportion.allocation.planner import PlanOptions, make_plan, options_of
from apportion.allocation.problem import Requirements
from apportion.allocation.replay import replay
from apportion.allocation.replica import Profile
from apportion.allocation.simulate import Simulation, Traffic, poisson_arrivals, simulate
from apportion.allocation.sizing import Lengths, sized
from apportion.allocation.workload import Workload
from apportion.router.errors import ConfigurationError, InvalidRequestError
from tests.allocation import instances
from tests.allocation.test_simulate import SMALL, plan_of, profile

RNG = np.random.default_rng(0)
LENGTHS = Lengths(
    RNG.lognormal(5.5, 0.7, 500), np.maximum(1, np.round(RNG.lognormal(4.5, 0.7, 500))), np.full(500, 1 / 500)
)
CURVES = {2: ((1, 50.0), (2, 90.0)), 8: ((1, 100.0), (8, 500.0)), 64: ((1, 60.0), (8, 400.0), (64, 1800.0))}


def simulated(known: Profile, rate_per_s: float, n: int = 4000) -> tuple[Simulation, np.ndarray]:
    """The requests of LENGTHS at one replica, and seconds for each further token of those that have several."""
    rows = np.random.default_rng(1).integers(0, 500, n)
    outputs = LENGTHS.output_tokens[rows]
    traffic = Traffic(np.zeros(n, int), LENGTHS.input_tokens[rows], outputs, poisson_arrivals(n, rate_per_s, seed=2))
    found = simulate(plan_of(known, replicas=1), traffic)
    return found, ((found.latency_s - found.first_token_s) / np.maximum(outputs - 1, 1))[outputs > 1]


@pytest.mark.parametrize(("slots", "use"), [(2, 0.5), (8, 0.4), (8, 0.8), (64, 0.8)])
def test_what_is_expected_is_what_the_simulator_finds(slots: int, use: float) -> None:
    known = profile(SMALL, slots, CURVES[slots], prefill=10_000.0)
    queue = replace(empty := Queue(known, LENGTHS, 0.0), rate_per_s=use * empty.most_per_s)
    found, token_s = simulated(known, queue.rate_per_s)
    promised = expected("m", [(queue, 1)], 0.95)
    assert (found.waited_s > 1e-9).mean() == pytest.approx(queue.waits, abs=0.03)
    assert queue.rate_per_s * found.latency_s.mean() == pytest.approx(promised.at_once, rel=0.08)
    assert np.percentile(found.latency_s, 95) == pytest.approx(promised.total_s, rel=0.1)
    assert np.percentile(found.first_token_s, 95) == pytest.approx(promised.first_token_s, rel=0.35)
    assert np.percentile(token_s, 95) == pytest.approx(promised.token_s, rel=0.15)


def test_more_than_a_replica_serves_waits_without_end() -> None:
    known = profile(SMALL, 8, CURVES[8])
    queue = Queue(known, LENGTHS, 1.01 * Queue(known, LENGTHS, 0.0).most_per_s)
    assert not queue.stable
    assert queue.later_than(total_s=1e9) == 1
    assert expected("m", [(queue, 1)], 0.95).total_s is None


def test_bounds_are_kept_up_to_a_rate_and_not_beyond() -> None:
    known = profile(SMALL, 64, CURVES[64], prefill=4000.0)
    bounds = LatencyBounds(first_token_s=0.5, token_s=0.03)
    found = within(known, LENGTHS, bounds)
    assert not isinstance(found, str)
    kept, rate = found
    assert kept.max_num_seqs < 64  # those that run are not slowed down further, others wait
    assert Queue(kept, LENGTHS, 0.97 * rate).keeps(bounds)
    assert not Queue(kept, LENGTHS, 1.05 * rate).keeps(bounds)
    looser = within(known, LENGTHS, LatencyBounds(first_token_s=2.0, token_s=0.03))
    assert not isinstance(looser, str)
    assert looser[1] > rate
    assert "a token takes 0.0167 s on an idle replica" in str(within(known, LENGTHS, LatencyBounds(token_s=0.01)))
    assert "later than the bounds" in str(within(known, LENGTHS, LatencyBounds(total_s=0.5)))


@pytest.mark.parametrize("wrong", [{"token_s": 0.0}, {"percentile": 1.0}, {"percentile": 0.2}])
def test_bounds_are_times_and_shares(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        LatencyBounds(**wrong)


def offered() -> list[Profile]:
    known = instances.profile("small", 0.5, 1, 16, 700.0), instances.profile("small", 1.0, 1, 64, 2500.0)
    curves = [((1, 60.0), (16, 700.0)), ((1, 120.0), (8, 700.0), (64, 2500.0))]
    large = replace(instances.profile("large", 1.0, 2, 32, 900.0), decode_curve=((1, 60.0), (32, 900.0)))
    return [*(replace(one, decode_curve=curve) for one, curve in zip(known, curves, strict=True)), large]


def planned(work: Workload, **changes: object) -> Plan:
    options = PlanOptions(Requirements(gpu_price=1e-3), **changes)
    return make_plan(instances.cluster(2, 4), instances.specs(), offered(), work, options).plan


def test_a_plan_keeps_the_bounds_in_the_simulator_and_takes_more_gpus_for_it() -> None:
    work = instances.workload(400, rate_per_s=20.0)
    bounds = LatencyBounds(first_token_s=0.5, token_s=0.02, total_s=6.0, percentile=0.9)
    free, kept = planned(work), planned(work, latency=bounds)
    assert all(one.keeps(bounds) for one in kept.latencies)
    assert not all(one.keeps(bounds) for one in free.latencies)
    assert sum(r.gpus * n for r, n in kept.counts.items()) > sum(r.gpus * n for r, n in free.counts.items())
    found = simulate(kept, replay(kept, work, requests=2000, seed=0))
    several = found.output_tokens > 1
    token_s = ((found.latency_s - found.first_token_s) / np.maximum(found.output_tokens - 1, 1))[several]
    assert np.percentile(found.first_token_s - found.waited_s, 90) < bounds.first_token_s
    assert np.percentile(token_s, 90) < 1.1 * bounds.token_s
    assert np.percentile(found.latency_s, 90) < 1.1 * bounds.total_s
    again = options_of(kept)
    assert (again.latency, again.batch_size) == (bounds, None)


def test_a_bound_that_nothing_keeps_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"no profile fits.*a token takes"):
        planned(instances.workload(200), latency=LatencyBounds(token_s=0.001))


def test_requests_at_once_follow_from_rate_and_latency() -> None:
    tiny, busy = (planned(instances.workload(400, rate_per_s=rate)) for rate in (1e-9, 30.0))
    assert tiny.batch_size == 1
    assert sum(r.gpus * n for r, n in tiny.counts.items()) <= 3
    assert sum(one.at_once for one in busy.latencies) == pytest.approx(busy.batch_size, abs=1)
    work = instances.workload(400, rate_per_s=30.0)
    found = simulate(busy, replay(busy, work, requests=2500, seed=1))
    assert 30.0 * found.latency_s.mean() == pytest.approx(busy.batch_size, rel=0.25)
    assert planned(work, batch_size=77).batch_size == 77


def test_stated_factors_shorten_reading_and_speed_up_answers() -> None:
    work = instances.workload(100)
    plain, cached, guessed = (
        sized(offered(), instances.specs(small=changes), work, 0.99)[1]
        for changes in ({}, {"prefix_cache_hits": 0.75}, {"speculative_speedup": 1.5})
    )
    assert cached.prefill_tokens_per_s == pytest.approx(4 * plain.prefill_tokens_per_s)
    assert cached.tokens_per_s == plain.tokens_per_s
    assert guessed.tokens_per_s == pytest.approx(1.5 * plain.tokens_per_s)
    assert guessed.decode_curve[0] == (1, pytest.approx(1.5 * plain.decode_curve[0][1]))
    measured = [replace(one, source="measured") for one in offered()]
    assert sized(measured, instances.specs(small={"speculative_speedup": 1.5}), work, 0.99)[1].tokens_per_s == 2500.0


def test_no_bound_is_always_kept() -> None:
    assert Expected("m", 0.95, None, None, None, None).keeps(LatencyBounds())
    assert not Expected("m", 0.95, 0.1, 0.1, None, None).keeps(LatencyBounds(total_s=5.0))
    assert not LatencyBounds(first_token_s=math.inf).any
