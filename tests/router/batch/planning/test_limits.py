"""Plans under limits on what is in flight, beside the best of all that could be chosen."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from apportion.router.arrays import IntArray
from apportion.router.batch.concurrency import ConcurrencyLimit, Counted, LimitsLeft
from apportion.router.batch.messages import Decision, RouteItem
from apportion.router.batch.planning.limits import Uses
from apportion.router.batch.planning.planner import Plan
from apportion.router.batch.reservations.availability import Availability
from apportion.router.budget import Account
from apportion.router.estimates import Estimates
from tests.router.batch.plain_room import MODELS, POLICY, PlainRoom, estimates, items


def drawn(rng: np.random.Generator) -> tuple[list[RouteItem], Estimates, Availability]:
    n = int(rng.integers(2, 6))
    batch = [
        RouteItem(
            id=f"r{i}",
            account=Account(tenant=str(rng.choice(["a", "b"]))),
            sequences=int(rng.integers(1, 3)),
            max_tokens=int(rng.integers(1, 30)),
        )
        for i in range(n)
    ]
    limits = (
        ConcurrencyLimit("both", Counted.requests, at_most=9, tenants=("a",)),
        ConcurrencyLimit("kv", Counted.tokens, at_most=99, models=("large",)),
        ConcurrencyLimit("part", share=0.5, models=("small",), tenants=("b",)),
    )
    left = np.array([rng.integers(0, 5), rng.integers(0, 80), rng.integers(0, 4)])
    of = dataclasses.replace(estimates(n), success=rng.uniform(0.1, 0.9, (n, 2)))
    slots = rng.integers(2, 7, 2)
    return batch, of, Availability(slots, slots, limits=LimitsLeft(limits, np.array([9, 99, 8]), left))


def keeps(batch: list[RouteItem], of: Estimates, available: Availability, chosen: IntArray, rows: IntArray) -> bool:
    uses = Uses.of(batch, of, MODELS, available.limits)
    assert uses is not None
    assert available.limits is not None
    loads = np.array([batch[row].sequences for row in rows], dtype=np.float64)
    slots = np.bincount(chosen, weights=loads, minlength=2) <= available.free_slots
    return bool(slots.all() and (uses.use[:, rows, chosen].sum(axis=1) <= available.limits.left).all())


async def planned(seed: int) -> tuple[list[RouteItem], Estimates, Availability, Plan]:
    batch, of, available = drawn(np.random.default_rng(seed))
    return batch, of, available, await PlainRoom().planner.plan(batch, of, available, POLICY)


@pytest.mark.parametrize("seed", range(40))
async def test_plans_keep_limits_and_are_the_best_for_those_who_have_their_turn(seed: int) -> None:
    batch, of, available, plan = await planned(seed)
    decided = {name: one for name, one in plan.verdicts.items() if isinstance(one, Decision)}
    rows = np.array([row for row, item in enumerate(batch) if item.id in decided], dtype=np.int64)
    assert decided.keys() | plan.waiting == {item.id for item in batch}
    chosen = np.array([POLICY.column_of(decided[batch[row].id].model) for row in rows], dtype=np.int64)
    assert keeps(batch, of, available, chosen, rows)
    every = [np.array(one, dtype=np.int64) for one in itertools.product(range(2), repeat=len(rows))]
    best = max(of.success[rows, one].sum() for one in every if keeps(batch, of, available, one, rows))
    assert of.success[rows, chosen].sum() == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("seed", range(40))
async def test_whoever_is_first_is_never_left_out_for_others(seed: int) -> None:
    batch, of, available, plan = await planned(seed)
    first = np.array([0])
    alone = [keeps(batch, of, available, np.array([model]), first) for model in range(2)]
    assert any(alone) == (batch[0].id in plan.verdicts)


def test_limits_that_cannot_bind_cost_the_problem_no_row() -> None:
    limits = tuple(ConcurrencyLimit(f"l{most}", at_most=most) for most in (3, 4))
    left = np.array([3, 4])
    uses = Uses.of(items(4), estimates(4), MODELS, LimitsLeft(limits, left, left))
    assert uses is not None
    assert [row.name for row in uses.rows(np.arange(4), np.ones((4, 2), bool))] == ["l3"]
    assert uses.rows(np.arange(3), np.ones((3, 2), bool)) == ()
    assert Uses.of(items(4), estimates(4), MODELS, None) is None
    others = (dataclasses.replace(limits[0], tenants=("acme",)),)
    assert Uses.of(items(4), estimates(4), MODELS, LimitsLeft(others, left[:1], left[:1])) is None
