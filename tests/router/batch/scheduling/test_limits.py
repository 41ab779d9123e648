"""Limits on what is in flight, through the scheduler: never passed, given back on every way out, nobody forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apportion.router.assignment import Greedy, Mip, PerQuery, Price, Static, Strategy
from apportion.router.batch.concurrency import ConcurrencyLimit, Counted
from apportion.router.batch.events import BatchPlanned
from apportion.router.batch.messages import Decision, Done, Ending, Held, Refusal, RouteItem, RoutingAsk
from apportion.router.budget import Account
from apportion.router.budget.limits import Job
from apportion.router.errors import InfeasibleError, UnavailableError
from tests.router.batch.plain_room import POLICY, PlainRoom, items, until

FREE = ConcurrencyLimit("free", Counted.requests, at_most=2, tenants=("free",))


def limited(*limits: ConcurrencyLimit, strategy: Strategy = POLICY.strategy, **slots: int) -> PlainRoom:
    made = PlainRoom(policy=replace(POLICY, strategy=strategy))
    made.fleet.concurrency.set_limits(limits, made.policy.names)
    made.join(**(slots or {"small": 8, "large": 8}))
    return made


def of_tenant(tenant: str, *ids: str, **fields: Any) -> list[RouteItem]:
    return [RouteItem(id=one, account=Account(tenant=tenant), **fields) for one in ids]


def in_flight(made: PlainRoom) -> dict[str, int]:
    return {name: one["in_flight"] for name, one in made.fleet.concurrency.describe().items()}


async def test_what_a_limit_holds_back_waits_and_others_do_not() -> None:
    made = limited(FREE)
    made.submit(*of_tenant("free", "f0", "f1", "f2", "f3"), *of_tenant("acme", "a0", "a1"))
    for name in ("f0", "f1", "a0", "a1"):
        assert isinstance(await made.verdict(name), Decision)
    assert made.scheduler.waiting == 2
    made.end(Done("f0", 1e-6))
    made.scheduler.wake()
    assert isinstance(await made.verdict("f2"), Decision)
    assert "f3" not in made.told
    assert in_flight(made) == {"free": 2}


async def test_those_held_back_have_their_turns_in_the_order_of_their_arrival() -> None:
    made = limited(FREE, small=64, large=64)
    names = [f"f{i}" for i in range(80)]
    made.submit(*of_tenant("free", *names))
    for ended, name in enumerate(names):
        assert isinstance(await made.verdict(name), Decision)
        assert list(made.told) == names[: max(len(made.told), ended + 1)], "nobody before his turn"
        made.end(Done(name, 1e-6))
        made.scheduler.wake()


async def test_a_limit_on_one_model_sends_who_may_elsewhere_there() -> None:
    made = limited(ConcurrencyLimit("acme-large", share=0.25, models=("large",), tenants=("acme",)))
    told = await made.verdicts(*of_tenant("acme", "a0", "a1", "a2", "a3"), *items(4))
    assert sorted(one.model for one in told[:4]) == ["large", "large", "small", "small"]
    assert [one.model for one in told[4:]] == ["large"] * 4
    planned = next(one for one in made.published if isinstance(one, BatchPlanned))
    assert planned.limit_prices["acme-large"] == pytest.approx(0.5), "large is right by so much more often"
    assert "limits[acme-large]" in planned.info.binding


@pytest.mark.parametrize("strategy", [Mip(), Greedy(), Price(), PerQuery(price=0.0), Static(model=1)])
@pytest.mark.parametrize("solver", ["works", "fails"])
async def test_every_strategy_and_every_rung_keeps_a_limit(strategy: Strategy, solver: str) -> None:
    made = limited(ConcurrencyLimit("host", at_most=3, models=("large",)), strategy=strategy)
    if solver == "fails":
        made.rungs._solve = broken
    told = await made.verdicts(*items(6))
    assert sorted(one.model for one in told) == ["large"] * 3 + ["small"] * 3
    assert in_flight(made) == {"host": 3}


async def broken(*_: object) -> None:
    raise RuntimeError("gone")


async def test_two_strategies_of_a_batch_share_what_is_left_of_a_limit() -> None:
    made = limited(ConcurrencyLimit("host", at_most=3, models=("large",)))
    asks = [RoutingAsk(), RoutingAsk(strategy="per_query", options={"price": 0.0})]
    told = await made.verdicts(*(RouteItem(id=f"r{i}", ask=asks[i % 2]) for i in range(8)))
    assert sum(one.model == "large" for one in told) == 3


async def test_tokens_count_by_the_longest_answers_that_there_may_be() -> None:
    made = limited(ConcurrencyLimit("kv", Counted.tokens, at_most=100, models=("large",)))
    told = [
        *await made.verdicts(*items(1, max_tokens=40, sequences=2)),
        *await made.verdicts(RouteItem("b", max_tokens=21)),
    ]
    assert [one.model for one in told] == ["large", "small"], "80 of the 100 are taken"
    assert told[0].most_tokens == 80
    assert in_flight(made) == {"kv": 80}


@pytest.mark.parametrize(
    ("limit", "request_", "kind", "says"),
    [
        (
            ConcurrencyLimit("kv", Counted.tokens, at_most=50),
            {"max_tokens": 60},
            InfeasibleError,
            "the limit kv allows 50 tokens in flight, and this request may take 60; lower max_tokens",
        ),
        (
            ConcurrencyLimit("few", at_most=2),
            {"sequences": 3},
            InfeasibleError,
            r"few allows 2 slots in flight, and this request may take 3; ask for fewer answers \(n\)",
        ),
        (
            ConcurrencyLimit("part", share=0.1, models=("large",)),
            {"sequences": 2, "model": "large"},
            UnavailableError,
            "part allows 0.1 of the slots, 1 now, in flight, and this request may take 2",
        ),
    ],
)
async def test_what_a_limit_can_never_admit_is_told_so(
    limit: ConcurrencyLimit, request_: dict[str, Any], kind: type, says: str
) -> None:
    (told,) = await limited(limit).verdicts(RouteItem("r", **request_))
    assert isinstance(told, Refusal)
    with pytest.raises(kind, match=says):
        raise told.error


async def test_a_large_request_that_has_waited_long_gets_what_is_left_kept_for_it() -> None:
    made = limited(ConcurrencyLimit("kv", Counted.tokens, at_most=80, models=("large",)))
    await made.verdicts(*items(4, model="large", max_tokens=20))
    made.submit(RouteItem("big", model="large", max_tokens=60))
    await until(lambda: made.scheduler.waiting == 1)
    made.clock.now_s += 60.0
    for i in range(4):
        made.end(Done(f"r{i}", 1e-6))
        made.submit(RouteItem(f"small{i}", model="large", max_tokens=20))
        made.scheduler.wake()
        await asyncio.sleep(0.02)
        if "big" in made.told:
            break
    assert isinstance(made.told["big"], Decision)
    assert made.told.keys().isdisjoint({"small0", "small1"}), "what was freed was kept for the large one"


async def test_jobs_rows_and_what_was_in_flight_before_a_restart_count_too() -> None:
    made = limited(replace(FREE, at_most=3))
    row = Account(tenant="free", job=Job("job"))
    made.reservations.adopt(Held("old", "large", "large-0", 1, 1e-6, Account(tenant="free")))
    assert isinstance((await made.verdicts(RouteItem("row", model="small", account=row)))[0], Decision)
    assert in_flight(made) == {"free": 2}
    made.submit(RouteItem("row1", model="small", account=row), *of_tenant("free", "f0"))
    await until(lambda: made.scheduler.waiting + made.scheduler.waiting_bulk == 1)
    assert in_flight(made) == {"free": 3}
    made.reservations.adopt(Held("older", "large", "large-0", 1, 1e-6, Account(tenant="free")))
    assert in_flight(made) == {"free": 4}, "what is there cannot be undone"
    for name in ("old", "older", "row", "row1", "f0"):
        made.end(Done(name, 1e-6))
    made.scheduler.wake()
    await until(lambda: not made.scheduler.waiting + made.scheduler.waiting_bulk)


async def test_rows_of_jobs_are_not_kept_from_slots_by_who_waits_for_a_limit() -> None:
    made = limited(replace(FREE, at_most=1))
    made.submit(*of_tenant("free", "f0", "f1"))
    await until(lambda: made.scheduler.waiting == 1)
    row = RouteItem("row", model="small", account=Account(tenant="acme", job=Job("job")))
    assert isinstance((await made.verdicts(row))[0], Decision)


async def test_limits_change_while_requests_are_in_flight_and_wait() -> None:
    made = limited()
    await made.verdicts(*of_tenant("free", "f0", "f1", "f2"))
    made.fleet.concurrency.set_limits([FREE], made.policy.names)
    assert in_flight(made) == {"free": 3}, "those from before count"
    made.submit(*of_tenant("free", "f3"))
    await until(lambda: made.scheduler.waiting == 1)
    made.fleet.concurrency.set_limits([replace(FREE, at_most=4)], made.policy.names)
    made.scheduler.wake()
    assert isinstance(await made.verdict("f3"), Decision)


async def test_previews_know_what_limits_allow_and_not_what_is_in_flight() -> None:
    made = limited(ConcurrencyLimit("host", at_most=2, models=("large",)))
    await made.verdicts(*items(2))
    assert [one.model for one in await made.previewed(*items(3))].count("large") == 2


requests = st.fixed_dictionaries(
    {
        "model": st.sampled_from([None, None, "small", "large"]),
        "account": st.builds(
            Account, st.just("k"), st.sampled_from([None, "free", "acme"]), st.sampled_from([None, None, Job("job")])
        ),
        "sequences": st.sampled_from([1, 1, 1, 2, 3]),
        "max_tokens": st.integers(1, 30),
    }
)
limits = st.lists(
    st.builds(
        ConcurrencyLimit,
        st.just("x"),
        st.sampled_from([Counted.requests, Counted.slots]),
        st.integers(1, 5),
        models=st.sampled_from([None, ("small",), ("large",)]),
        tenants=st.sampled_from([None, ("free",), ("free", "unnamed")]),
    )
    | st.builds(
        ConcurrencyLimit, st.just("t"), st.just(Counted.tokens), st.integers(30, 120), models=st.just(("large",))
    )
    | st.builds(ConcurrencyLimit, st.just("s"), share=st.sampled_from([0.2, 0.5]), tenants=st.just(("acme",))),
    min_size=1,
    max_size=4,
)
ends = st.sampled_from([Ending.answered, Ending.given_up, Ending.unsent, Ending.engine_failed, Ending.busy, None])


@settings(max_examples=20, deadline=None)
@given(
    drawn=limits,
    steps=st.lists(st.tuples(st.lists(requests, max_size=6), st.lists(ends, max_size=4)), min_size=1, max_size=6),
)
def test_whatever_comes_and_ends_passes_no_limit_and_leaves_nothing(drawn: list[Any], steps: list[Any]) -> None:
    asyncio.run(play([replace(limit, name=f"l{k}") for k, limit in enumerate(drawn)], steps))


async def play(drawn: list[ConcurrencyLimit], steps: list[Any]) -> None:
    made, known = limited(*drawn, small=5, large=6), {}
    ended: set[str] = set()

    def flying() -> list[tuple[RouteItem, Decision]]:
        told = [(known[name], one) for name, one in made.told.items() if name not in ended]
        return [(item, one) for item, one in told if isinstance(one, Decision)]

    def end_one(ending: Ending | None) -> None:
        if held := flying():
            name = held[0][0].id
            ended.add(name)
            # None: its client left before the verdict was told.
            made.reservations.release(name) if ending is None else made.end(Done(name, 1e-7, ending))

    def check() -> None:
        for limit, told in zip(drawn, made.fleet.concurrency.describe().values(), strict=True):
            used = sum(
                limit.count(item.sequences, min(item.max_tokens or 0, 90) * item.sequences)
                for item, one in flying()
                if limit.holds_on(one.model) and limit.holds_for(item.account)
            )
            # By what there is while no breaker is open: slots that are gone take none from who holds them.
            assert used == told["in_flight"] <= limit.most(5 + 6)

    for more, endings in steps:
        new = [RouteItem(id=f"r{len(known) + i}", **fields) for i, fields in enumerate(more)]
        known.update({item.id: item for item in new})
        made.submit(*new)
        for ending in endings:
            end_one(ending)
        made.scheduler.wake()
        await asyncio.sleep(0.008)
        check()
    async with asyncio.timeout(5):
        while len(made.told) < len(known) or flying():
            end_one(Ending.answered)
            made.scheduler.wake()
            await asyncio.sleep(0.001)
            check()
    assert all(one["in_flight"] == 0 for one in made.fleet.concurrency.describe().values())
    assert made.fleet.in_flight == 0
    assert all(isinstance(one, Decision) or one.error.code in CODES for one in made.told.values())


CODES = {"no_feasible_assignment", "unavailable"}
