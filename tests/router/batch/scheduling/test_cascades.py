"""Cascades in the batch room: two stages, one reservation, and money that is exact however a request ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apportion.router.assignment import Assignment, BatchProblem, Strategy
from apportion.router.batch.concurrency import ConcurrencyLimit
from apportion.router.batch.messages import Decision, Done, Ending, RouteItem
from apportion.router.batch.money.spending import Spending
from apportion.router.batch.policy import Policy
from apportion.router.batch.stages import FirstAnswer, Kept, second_id
from apportion.router.budget import Limit, Scope, Window, from_nano, to_nano
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.limits import TOTAL_KEY
from apportion.router.signals import Signals
from tests.router.batch.plain_room import POLICY, Clock, PlainRoom, forecasts, items
from tests.router.cascade.made import held_out, pair_of

PAIR = pair_of(held_out(1, 0.95, n=600, models=2), 0, 1)
CASCADES = replace(POLICY, cascades=(PAIR,))
SURE, UNSURE = Signals(6.0, 0.0, 0.0, 0.0), Signals(-4.0, 0.0, 0.0, 0.0)
# 10 tokens in and 20 out at most, at 1 and 10 USD a million.
WORST_NANO = {"small": 30_000, "large": 300_000}


def unequal(requests: Any) -> Any:
    return forecasts(len(requests), (0.6, 0.7))


def room_of(**fields: Any) -> PlainRoom:
    room = PlainRoom(forecast=unequal, policy=CASCADES, **fields)
    room.join(small=8, large=8)
    return room


def asking(n: int, **fields: Any) -> list[RouteItem]:
    return items(n, may_cascade=True, max_tokens=20, **fields)


async def planned(room: PlainRoom, item: RouteItem) -> Decision:
    (decision,) = await room.verdicts(item)
    assert isinstance(decision, Decision)
    assert decision.second is not None
    return decision


def again(item: RouteItem, decision: Decision, signals: Signals) -> RouteItem:
    assert decision.second is not None
    return item.second_stage(FirstAnswer(decision.model, decision.second, signals), 60.0, 1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[BudgetLedger]:
    made = BudgetLedger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield made
    made.close()


def paying(ledger: BudgetLedger, usd: float, **fields: Any) -> PlainRoom:
    clock = Clock(1e9)
    limits = [Limit(Scope.service, Window.total, to_nano(usd))]
    return room_of(spending=Spending(ledger, 300.0, limits=limits, clock=clock), clock=clock, **fields)


async def balance(ledger: BudgetLedger, room: PlainRoom) -> tuple[int, int]:
    """Nano-USD that are spent and set aside."""
    assert room.spending is not None
    await room.spending.flush()
    total = ledger.statement(now_s=room.clock(), scopes=[Scope.service]).balance(TOTAL_KEY)
    return total.spent_nano, total.reserved_nano


async def test_a_cascade_takes_slots_of_its_first_model_and_money_for_both(ledger: BudgetLedger) -> None:
    room = paying(ledger, 1.0)
    (item,) = asking(1)
    decision = await planned(room, item)
    assert (decision.model, decision.second and decision.second.model) == ("small", "large")
    assert decision.success is not None
    assert decision.success > 0.7, "both together are better than either"
    assert 15e-6 < decision.cost_usd < 165e-6
    assert room.fleet.free_slots().tolist() == [7, 8]
    assert await balance(ledger, room) == (0, sum(WORST_NANO.values()))


@pytest.mark.parametrize(("signals", "kept"), [(SURE, True), (UNSURE, False)])
async def test_the_signals_decide_the_second_stage(ledger: BudgetLedger, signals: Signals, kept: bool) -> None:
    room = paying(ledger, 1.0)
    (item,) = asking(1)
    decision = await planned(room, item)
    second = again(item, decision, signals)
    room.submit(second)
    verdict = await room.heard(second.id)
    assert isinstance(verdict, Kept if kept else Decision)
    assert room.fleet.free_slots().tolist() == [7, 8 if kept else 7], "the first one's slot is given back at its end"
    assert await balance(ledger, room) == (0, WORST_NANO["small"] + (0 if kept else WORST_NANO["large"]))
    room.end(Done(item.id, from_nano(1_000)))
    if not kept:
        room.end(Done(second.id, from_nano(20_000)))
    assert room.fleet.free_slots().tolist() == [8, 8]
    assert await balance(ledger, room) == (1_000 if kept else 21_000, 0)


async def test_requests_that_may_not_cascade_and_a_policy_without_pairs_decide_as_ever() -> None:
    def played(n: int, *, may: bool) -> list[RouteItem]:
        return items(n, may_cascade=may, max_tokens=20)

    capped = replace(POLICY, budget_usd_per_request=60e-6)
    found = []
    for policy, may in ((capped, True), (replace(capped, cascades=(PAIR,)), False)):
        room = PlainRoom(forecast=unequal, policy=policy)
        room.join(small=8, large=8)
        found.append(await room.verdicts(*played(12, may=may)))
        assert not any(isinstance(one, Decision) and one.second for one in found[-1])
    plain = [replace(one, timing=None) if isinstance(one, Decision) else one for one in found[0]]
    assert plain == [replace(one, timing=None) if isinstance(one, Decision) else one for one in found[1]]


async def test_where_both_cannot_be_paid_at_worst_one_answers(ledger: BudgetLedger) -> None:
    room = paying(ledger, 310_000e-9)
    (verdict,) = await room.verdicts(*asking(1))
    assert isinstance(verdict, Decision)
    assert verdict.second is None
    assert await balance(ledger, room) == (0, WORST_NANO[verdict.model])


async def test_of_two_claims_that_one_limit_is_short_for_none_is_kept(ledger: BudgetLedger) -> None:
    room = paying(ledger, 400_000e-9)
    verdicts = await room.verdicts(*asking(2))
    spent, reserved = await balance(ledger, room)
    holding = [one for one in verdicts if isinstance(one, Decision)]
    worst = [WORST_NANO[one.model] + (WORST_NANO["large"] if one.second else 0) for one in holding]
    assert (spent, reserved) == (0, sum(worst))
    assert holding


async def test_variants_of_one_model_make_a_cascade_on_its_slots() -> None:
    quick, slow = (replace(model, name=f"small@{name}") for model, name in zip(POLICY.models, ("a", "b"), strict=True))
    pair = replace(PAIR, first=quick.name, second=slow.name)
    policy = Policy((quick, slow), POLICY.strategy, cascades=(pair,))
    room = PlainRoom(forecast=lambda asked: forecasts(len(asked), (0.6, 0.7), models=policy.names), policy=policy)
    room.join(small=2)
    (item,) = asking(1)
    decision = await planned(room, item)
    second = again(item, decision, UNSURE)
    room.submit(second)
    told = await room.heard(second.id)
    assert isinstance(told, Decision)
    assert (decision.model, told.model) == ("small@a", "small@b")
    assert room.fleet.free_slots().tolist() == [0]


async def test_time_counts_for_both_stages() -> None:
    async def planned_with(**policy: float) -> Decision:
        room = PlainRoom(forecast=unequal, policy=replace(CASCADES, **policy))
        room.join(small=8, large=8)
        for column, token_s in enumerate((0.001, 0.002)):
            for _ in range(20):
                room.speeds.learn(column, 5 * token_s, prompt_tokens=10, answer_tokens=5, running=1.0, answers=1)
        (decision,) = await room.verdicts(*asking(1))
        assert isinstance(decision, Decision)
        return decision

    free, in_time = await planned_with(), await planned_with(max_seconds=0.0125)
    assert free.second is not None
    assert in_time.second is None, "10 ms of the second are in time, 15 of both are not"
    dear = await planned_with(latency_weight_per_s=1.0)
    assert dear.second is not None
    assert dear.second.charge == pytest.approx(0.01, rel=0.2)


async def test_who_finds_no_slot_of_the_second_model_has_an_answer() -> None:
    room = room_of()
    first = asking(1)[0]
    decision = await planned(room, first)
    await room.verdicts(*[RouteItem(f"other-{i}", model="large") for i in range(8)])
    second = again(first, decision, UNSURE)
    room.submit(second)
    assert isinstance(await room.heard(second.id), Kept)


async def test_second_stages_keep_limits_on_what_is_in_flight() -> None:
    room = room_of()
    room.fleet.concurrency.set_limits([ConcurrencyLimit("few", at_most=2, models=("large",))], room.policy.names)
    requests = asking(3)
    decisions = [one for one in await room.verdicts(*requests) if isinstance(one, Decision) and one.second]
    assert len(decisions) == 3, "in flight is the first model alone"
    seconds = [again(item, one, UNSURE) for item, one in zip(requests, decisions, strict=True)]
    room.submit(*seconds)
    told = [await room.heard(one.id) for one in seconds]
    assert [type(one) for one in told].count(Decision) == 2
    assert room.fleet.concurrency.describe()["few"]["in_flight"] == 2
    for one in (*requests, *seconds):
        room.end(Done(one.id, 1e-6))
    assert room.fleet.concurrency.describe()["few"]["in_flight"] == 0


async def test_a_second_stage_that_is_told_of_again_has_its_money_set_aside_anew(ledger: BudgetLedger) -> None:
    room = paying(ledger, 1.0)
    (item,) = asking(1)
    second = again(item, await planned(room, item), UNSURE)
    room.reservations.release(second.id)  # as where it was kept, and the reply was lost
    room.submit(replace(second, resent=True))
    assert isinstance(await room.heard(second.id), Decision)
    assert await balance(ledger, room) == (0, sum(WORST_NANO.values()))
    room.end(Done(item.id, from_nano(1_000)))
    room.end(Done(second.id, from_nano(2_000)))
    assert await balance(ledger, room) == (3_000, 0)


async def test_a_solver_that_fails_leaves_first_answers_or_a_rung_below() -> None:
    async def fails(problem: BatchProblem, strategy: Strategy) -> Assignment:
        raise RuntimeError("away")

    room = room_of()
    requests = asking(4)
    decisions = [one for one in await room.verdicts(*requests) if isinstance(one, Decision) and one.second]
    await room.verdicts(*[RouteItem(f"other-{i}", model="large") for i in range(7)])
    room.rungs._solve = fails
    seconds = [again(item, one, UNSURE) for item, one in zip(requests, decisions, strict=True)]
    room.submit(*seconds)
    told = [await room.heard(one.id) for one in seconds]
    assert [type(one) for one in told].count(Decision) == 1, "one slot of the second model is left"


def test_a_second_stage_is_no_other_attempt() -> None:
    item = RouteItem("r")
    decision = Decision("r", "small", 0.5, 0.0, 0.0, "mip", "mip", batch=None)  # type: ignore[arg-type]
    assert second_id("r") not in {item.again([decision] * tried, 1.0).id for tried in range(5)}


async def test_whatever_becomes_of_cascades_all_money_and_slots_come_back(ledger: BudgetLedger) -> None:
    rng = np.random.default_rng(5)
    room = paying(ledger, 1.0)
    spent_nano = 0

    def cost() -> int:
        return int(rng.integers(100, 20_000))

    for number in range(120):
        (item,) = asking(1)
        item = replace(item, id=f"r{number}")
        decision = await planned(room, item)
        assert decision.second is not None
        course = rng.integers(6)
        if course == 0:  # the client is gone before an engine is asked
            room.end(Done(item.id, None, Ending.unsent, releases=decision.second.id))
        elif course == 1:  # the first engine fails
            room.end(Done(item.id, None, Ending.unreachable, releases=decision.second.id))
        elif course == 2:  # the client leaves while the first answers, and is told of twice
            spent_nano += (paid := cost())
            for _ in range(2):
                room.end(Done(item.id, from_nano(paid), Ending.given_up, releases=decision.second.id))
        else:
            second = again(item, decision, Signals(float(rng.normal(0, 3)), 0.0, 0.0, 0.0))
            (entry,) = room.submit(second)
            if course == 3:  # it leaves while the second stage is decided
                room.scheduler.withdraw(entry)
                room.reservations.release(second.id)
            told = None if course == 3 else await room.heard(second.id)
            spent_nano += (paid := cost())
            asked = isinstance(told, Decision)
            room.end(Done(item.id, from_nano(paid), releases=None if asked else second.id))
            if asked:
                answered = bool(rng.integers(2))
                spent_nano += (paid := cost() if answered else 0)
                room.end(Done(second.id, from_nano(paid), Ending.answered if answered else Ending.busy))
    assert room.fleet.free_slots().tolist() == [8, 8]
    assert await balance(ledger, room) == (spent_nano, 0)


async def test_thresholds_go_by_the_prices_of_batches_before() -> None:
    capped = replace(CASCADES, budget_usd_per_request=40e-6)
    room = PlainRoom(forecast=unequal, policy=capped)
    room.join(small=64, large=64)
    dear = [one for one in await room.verdicts(*asking(40)) if isinstance(one, Decision) and one.second]
    free = [one for one in await room_of().verdicts(*asking(4)) if isinstance(one, Decision) and one.second]
    assert dear
    assert min(one.second.charge for one in dear if one.second) > 0.0
    assert max(one.second.charge for one in free if one.second) == 0.0
    assert dear[0].second is not None
    assert free[0].second is not None
    assert dear[0].second.probability < free[0].second.probability
    planned_usd = sum(one.cost_usd for one in dear)
    assert planned_usd <= 40 * 40e-6 * (1 + 1e-6), "the cap holds for what both stages are expected to cost"
