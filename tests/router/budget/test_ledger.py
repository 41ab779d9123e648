from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apportion.router.budget import Account, Limit, LimitIndex, Scope, Window
from apportion.router.budget.ledger import KEEP_CHARGED_S, BudgetLedger
from tests.router.budget.claims import DAILY, LATER_S, NOW_S, Open, balance, claim, held, reserve


def test_reserving_sets_aside_and_settling_charges_what_was_counted(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    assert reserve(ledger, claim("a", 600), claim("b", 300)) == [True, True]
    assert balance(ledger) == (0, 900)
    ledger.settle({"a": 50, "b": None})
    assert balance(ledger) == (350, 0)
    assert held(ledger) == {}


def test_ends_leave_what_is_known_of_the_accounts_counters(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    reserve(ledger, claim("a", 600))
    known = ledger.index.bindings(NOW_S)
    ledger.settle({"a": 50})
    assert ledger.index.bindings(NOW_S) is known


def test_a_batch_is_granted_in_order_as_far_as_the_money_goes(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    assert reserve(ledger, claim("a", 600), claim("b", 600), claim("c", 400)) == [True, False, True]
    assert balance(ledger) == (0, 1000)
    assert set(held(ledger)) == {"a", "c"}


def test_releasing_and_ending_twice(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    reserve(ledger, claim("a", 600), claim("b", 300))
    ledger.settle({"a": 0})
    ledger.settle({"a": 500, "b": 100, "unknown": 7})
    ledger.settle({"b": 100})
    assert balance(ledger) == (100, 0)


def test_ends_are_settled_before_what_comes_with_them_is_reserved(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    reserve(ledger, claim("a", 1000))
    assert reserve(ledger, claim("b", 1000)) == [False]
    assert reserve(ledger, claim("b", 900), ends={"a": 100}) == [True]
    assert balance(ledger) == (100, 900)


def test_forgetting_ids_of_counters_loses_none_of_the_batchs(
    open_ledger: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(Limit(Scope.tenant, Window.day, 1000))
    monkeypatch.setattr("apportion.router.budget.ledger._MAX_KNOWN_IDS", 1)
    assert reserve(ledger, claim("a", 600, tenant="x")) == [True]
    assert reserve(ledger, claim("b", 500, tenant="x"), claim("c", 300, tenant="y")) == [False, True]
    assert balance(ledger) == (0, 900)


def test_asking_again_under_the_same_id_replaces_the_reservation(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    reserve(ledger, claim("a", 800))
    assert reserve(ledger, claim("a", 700), claim("b", 300)) == [True, True]
    assert held(ledger) == {"a": 700, "b": 300}
    assert balance(ledger) == (0, 1000)


def test_every_scope_has_its_own_limit_and_they_do_not_mix(open_ledger: Open) -> None:
    ledger = open_ledger(
        Limit(Scope.key, Window.day, 100),
        Limit(Scope.key, Window.day, 50, "poor"),
        Limit(Scope.tenant, Window.total, 150, "acme"),
        Limit(Scope.model, Window.minute, 170, "dear"),
    )
    granted = reserve(
        ledger,
        claim("a", 60, key="poor"),
        claim("b", 60, key="rich"),
        claim("c", 60, key="rich"),
        claim("d", 100, key="x", tenant="acme"),
        claim("e", 60, key="y", tenant="acme"),
        claim("f", 60, key="y", tenant="other"),
        claim("g", 100, model="dear"),
        claim("h", 100, model="dear"),
    )
    assert granted == [False, True, False, True, False, True, True, False]


def test_names_that_are_refused_leave_no_counter_behind(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY, Limit(Scope.tenant, Window.total, 500))
    claims = [claim(f"r{number}", 600, tenant=f"t{number}") for number in range(5)]
    assert reserve(ledger, *claims, claim("s", 400, tenant="paid"), claim("u", 700, tenant="late")) == [
        *[False] * 5,
        True,
        False,
    ]
    names = {key.name for key in ledger.statement(now_s=NOW_S).balances if key.scope is Scope.tenant}
    assert names == {"paid"}


def test_the_view_before_planning_agrees_with_reserving(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY, Limit(Scope.tenant, Window.day, 300), Limit(Scope.model, Window.day, 200, "dear"))
    reserve(ledger, claim("a", 150, tenant="t", model="dear"))
    accounts = [Account(tenant="t"), Account(tenant="u"), Account()]
    left = ledger.look(accounts, ["dear", "cheap"], now_s=NOW_S, ends={"a": 100}).left_nano(accounts, ["dear", "cheap"])
    assert left.tolist() == [[100, 200], [100, 300], [100, 300]]


def test_limits_change_while_the_ledger_is_open(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    reserve(ledger, claim("a", 1000))
    ledger.index = LimitIndex([Limit(Scope.service, Window.day, 1500)])
    assert reserve(ledger, claim("b", 600), claim("c", 500)) == [False, True]


amounts = st.integers(0, 400)
names = st.sampled_from(["a", "b", None])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.lists(st.tuples(amounts, names, names), min_size=1, max_size=6)),
        st.tuples(st.just("end"), st.lists(st.tuples(st.integers(0, 30), st.none() | amounts), max_size=5)),
        st.tuples(st.just("expire"), st.just(())),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 61.0, 400.0, 90_000.0])),
    ),
    max_size=10,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_no_order_of_events_breaks_a_limit_or_leaks(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    limits = [
        Limit(Scope.service, Window.minute, 1000),
        Limit(Scope.key, Window.day, 600),
        Limit(Scope.tenant, Window.total, 900),
    ]
    ledger = BudgetLedger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/b.db", limits)
    now_s, made, generated = NOW_S, [], 0
    late = 0  # nano-USD that ends told more than a day late may not correct any more
    open_claims: dict[str, int] = {}
    made_s: dict[str, float] = {}
    for what, arguments in steps:
        if what == "reserve":
            claims = [claim(f"r{len(made) + i}", nano, key, tenant) for i, (nano, key, tenant) in enumerate(arguments)]
            made += claims
            granted = reserve(ledger, *claims, now_s=now_s)
            made_s |= {c.id: now_s for c in claims}
            open_claims |= {c.id: c.nano for c, ok in zip(claims, granted, strict=True) if ok}
        elif what == "end":
            ends = {f"r{i}": cost for i, cost in arguments}
            ends = {i: cost for i, cost in ends.items() if i in open_claims}
            costs = {i: open_claims[i] if c is None else min(c, open_claims[i]) for i, c in ends.items()}
            ledger.settle(costs)
            generated += sum(costs.values())
            late += sum(open_claims[i] - cost for i, cost in costs.items() if now_s - made_s[i] > KEEP_CHARGED_S)
            for i in costs:
                del open_claims[i]
        elif what == "expire":
            ledger.expire(now_s=now_s)
        else:
            now_s += arguments
        standing = ledger.statement(now_s=now_s)
        for limit in limits:
            assert all(b.committed_nano <= limit.nano_usd for _, b in standing.of_limit(limit))
        spent, reserved = balance(ledger)
        owed = generated + sum(open_claims.values())
        assert owed <= spent + reserved <= owed + late
    ledger.settle(dict.fromkeys(open_claims, 0))
    late += sum(nano for i, nano in open_claims.items() if now_s - made_s[i] > KEEP_CHARGED_S)
    spent, reserved = balance(ledger)
    assert reserved == 0
    assert generated <= spent <= generated + late
    assert all(b.reserved_nano == 0 for b in ledger.statement(now_s=now_s).balances.values())
    ledger.close()


def test_a_batch_costs_the_same_however_many_counters_are_known(open_ledger: Open) -> None:
    ledger = open_ledger(Limit(Scope.key, Window.day, 1000))

    def quickest_s() -> float:
        took = []
        for number in range(20):
            began_s = time.thread_time()
            assert reserve(ledger, claim(f"{len(made)}-{number}", 1, key="a")) == [True]
            took.append(time.thread_time() - began_s)
        return min(took)

    made: list[int] = []
    few_s = quickest_s()
    made += range(10_000)
    for start in range(0, len(made), 2_000):
        ledger.reserve(
            [claim(f"r{i}", 1, key=f"k{i}") for i in made[start : start + 2_000]], now_s=NOW_S, expires_s=LATER_S
        )
    assert quickest_s() < 2 * few_s + 0.0005
