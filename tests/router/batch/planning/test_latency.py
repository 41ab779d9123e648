"""Plans that go by how long models take: a bound on it, and its weight beside success."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from apportion.router.assignment import Mip, RobustMip, strategy_from
from apportion.router.batch.messages import Decision, Done, RouteItem, RoutingAsk
from apportion.router.batch.planning.planner import Plan
from apportion.router.batch.policy import Policy
from apportion.router.batch.reservations.availability import Availability
from apportion.router.estimates import Estimates
from tests.router.batch.plain_room import MODELS, POLICY, PlainRoom, estimates, items

SLOTS = np.array([8, 8])
SLOW_LARGE = (1.0, 5.0)  # seconds of small and large


def taking(n: int, *seconds: float, **fields: tuple[float, ...]) -> Estimates:
    return replace(estimates(n, **fields), seconds=np.tile(seconds, (n, 1)))


async def plan(batch: list[RouteItem], of: Estimates, policy: Policy, slots: np.ndarray = SLOTS, **options) -> Plan:
    available = Availability(slots, np.array([8, 8]))
    return await PlainRoom().planner.plan(batch, of, available, policy, explain=True, **options)


def models(result: Plan) -> list[str]:
    assert not result.waiting
    return [verdict.model for verdict in result.verdicts.values()]


async def test_a_model_that_would_be_late_is_left_to_others() -> None:
    patient = RouteItem("patient", ask=RoutingAsk(max_seconds=60.0))
    result = await plan([*items(2), patient], taking(3, *SLOW_LARGE), replace(POLICY, max_seconds=3.0))
    assert models(result) == ["small", "small", "large"]
    decision = result.verdicts["r0"]
    assert (decision.success, decision.predicted_seconds) == (0.4, 1.0)
    small, large = decision.candidates
    assert (small.predicted_seconds, small.allowed, small.reason) == (1.0, True, None)
    assert (large.predicted_seconds, large.allowed) == (5.0, False)
    assert "max_seconds" in large.reason


async def test_time_that_a_request_has_waited_counts() -> None:
    waited_s = np.array([0.0, 2.5])
    of = taking(2, 1.0, 3.0)
    result = await plan(items(2), of, replace(POLICY, max_seconds=4.0), waited_s=waited_s)
    assert models(result) == ["large", "small"]


async def test_where_all_would_be_late_the_fastest_answers() -> None:
    policy = replace(POLICY, max_seconds=0.5)
    assert models(await plan(items(2), taking(2, *SLOW_LARGE), policy)) == ["small", "small"]
    named = items(1, model="large")
    assert models(await plan(named, taking(1, *SLOW_LARGE), policy)) == ["large"], "whoever names a model waits for it"


async def test_nobody_waits_for_a_fast_model_while_another_is_free() -> None:
    policy = replace(POLICY, max_seconds=3.0)
    few = await plan(items(5), taking(5, *SLOW_LARGE), policy, np.array([2, 8]))
    assert sorted(models(few)) == ["large"] * 3 + ["small"] * 2
    none = await plan(items(2), taking(2, *SLOW_LARGE), policy, np.array([0, 8]))
    assert models(none) == ["large", "large"]


async def test_nobody_is_refused_for_the_price_of_being_fast() -> None:
    policy = Policy(MODELS, Mip(), 5e-6, max_seconds=3.0)
    assert models(await plan(items(3), taking(3, 5.0, 1.0), policy)) == ["small"] * 3
    assert (
        models(await plan(items(3), taking(3, 5.0, 1.0), replace(policy, budget_usd_per_request=None))) == ["large"] * 3
    )


async def test_nothing_is_held_against_a_model_that_nobody_has_measured() -> None:
    policy = replace(POLICY, max_seconds=0.5, latency_weight_per_s=0.1)
    assert models(await plan(items(1), estimates(1), policy)) == ["large"]
    unknown = await plan(items(1), taking(1, 1.0, np.nan), policy)
    assert models(unknown) == ["large"]
    assert unknown.verdicts["r0"].predicted_seconds is None


async def test_seconds_are_traded_for_success_and_success_is_told_as_it_is() -> None:
    of = taking(2, *SLOW_LARGE)  # large is 0.5 better and 4 s slower
    light = await plan(items(2), of, replace(POLICY, latency_weight_per_s=0.1))
    heavy = await plan(items(2), of, replace(POLICY, latency_weight_per_s=0.15))
    assert (models(light), models(heavy)) == (["large"] * 2, ["small"] * 2)
    assert light.verdicts["r0"].success == 0.9
    assert light.verdicts["r0"].batch.objective == pytest.approx(2 * (0.9 - 0.1 * 5.0))
    assert light.verdicts["r0"].batch.bound >= light.verdicts["r0"].batch.objective - 1e-9


@pytest.mark.parametrize("strategy", [Mip(), RobustMip("quantile"), RobustMip("gamma"), strategy_from("price")])
async def test_the_plan_is_the_best_of_success_less_seconds(strategy: object) -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        success, seconds = rng.uniform(0, 1, (4, 2)), rng.uniform(0, 10, (4, 2))
        of = replace(estimates(4), success=success, seconds=seconds)
        policy = replace(POLICY, strategy=strategy, latency_weight_per_s=0.05)
        result = await plan(items(4), of, policy, np.array([2, 2]))
        worth = success - 0.05 * seconds
        choices = [choice for choice in itertools.product((0, 1), repeat=4) if sum(choice) == 2]
        best = max(worth[range(4), choice].sum() for choice in choices)
        chosen = [POLICY.column_of(model) for model in models(result)]
        found = worth[range(4), chosen].sum()
        assert found == pytest.approx(best) or (strategy.name == "price" and found <= best)
        assert result.groups[0].info.bound >= best - 1e-9


async def test_without_weight_and_bound_decisions_are_as_if_nobody_knew_speeds() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        n = 12
        of = replace(
            estimates(n), success=rng.uniform(0, 1, (n, 2)), cost_usd=rng.uniform(1e-6, 1e-5, (n, 2)),
            success_std=rng.uniform(0, 0.1, (n, 2)),
        )  # fmt: skip
        slots, policy = rng.integers(4, 9, 2), Policy(MODELS, Mip(), 7e-6)
        unknown = await plan(items(n), of, policy, slots)
        known = await plan(items(n), replace(of, seconds=rng.uniform(0, 99, (n, 2))), policy, slots)
        assert unknown.waiting == known.waiting
        for name, verdict in unknown.verdicts.items():
            other = known.verdicts[name]
            if isinstance(verdict, Decision):
                assert replace(other, predicted_seconds=None, candidates=(), batch=verdict.batch) == replace(
                    verdict, candidates=()
                )
                assert replace(other.batch, id=0) == replace(verdict.batch, id=0)
            else:
                assert str(other.error) == str(verdict.error)


async def test_a_model_that_slows_down_under_load_is_avoided_while_it_is_loaded() -> None:
    room = PlainRoom(policy=replace(POLICY, max_seconds=2.0))
    room.join(small=64, large=64)
    for running in (1, 20, 40) * 4:  # large takes 0.6 s a token beside 40, small 0.02 s whatever runs
        room.speeds.learn(1, 0.015 * running * 5, prompt_tokens=10, answer_tokens=5, running=running)
        room.speeds.learn(0, 0.1, prompt_tokens=10, answer_tokens=5, running=running)

    async def answered_by(name: str, **fields: object) -> str:
        return (await room.verdicts(RouteItem(name, **fields)))[0].model

    assert await answered_by("idle") == "large"
    for number in range(2):
        assert await answered_by(f"long{number}", model="large", sequences=20) == "large"
    assert await answered_by("loaded") == "small"
    assert await answered_by("patient", ask=RoutingAsk(max_seconds=9.0)) == "large"
    for number in range(2):
        room.end(Done(f"long{number}", 1e-6))
    assert await answered_by("idle again") == "large"


async def test_rows_of_jobs_are_planned_for_their_success_alone() -> None:
    policy = replace(POLICY, max_seconds=0.1, latency_weight_per_s=1.0).for_bulk(0.5)
    assert models(await plan(items(1), taking(1, *SLOW_LARGE), policy)) == ["large"]
