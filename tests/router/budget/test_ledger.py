from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from apportion.router.budget import Account, Limit, LimitIndex, Scope, Window
from apportion.router.budget.ledger import KEEP_CHARGED_S, KEEP_MINUTES_S, BudgetLedger
from apportion.router.budget.schema import reservations
from apportion.router.budget.standing import Claim
from apportion.router.errors import ConfigurationError, LedgerError

NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z, the start of a minute
LATER_S = NOW_S + 300
Open = Callable[..., BudgetLedger]
DAILY = Limit(Scope.service, Window.day, 1000)


def claim(name: str, nano: int, key: str | None = None, tenant: str | None = None, model: str = "m") -> Claim:
    return Claim(name, Account(key, tenant), model, nano)


def reserve(ledger: BudgetLedger, *claims: Claim, now_s: float = NOW_S, **options: object) -> list[bool]:
    shortages = ledger.reserve(claims, now_s=now_s, expires_s=now_s + 300, **options)
    return [shortage is None for shortage in shortages]


def balance(ledger: BudgetLedger) -> tuple[int, int]:
    total = ledger.statement(now_s=NOW_S).total()
    return total.spent_nano, total.reserved_nano


def held(ledger: BudgetLedger) -> dict[str, int]:
    """Reservations that are neither settled nor expired: nano-USD by id."""
    rows = select(reservations.c.id, reservations.c.amount_nano).where(reservations.c.charged.is_(False))
    with ledger._engine.connect() as connection:
        return {row.id: row.amount_nano for row in connection.execute(rows)}


def test_reserving_sets_aside_and_settling_charges_what_was_counted(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    assert reserve(ledger, claim("a", 600), claim("b", 300)) == [True, True]
    assert balance(ledger) == (0, 900)
    ledger.settle({"a": 50, "b": None})
    assert balance(ledger) == (350, 0)
    assert held(ledger) == {}


def test_a_statement_waits_for_no_writer(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    assert reserve(ledger, claim("a", 600)) == [True]
    with ledger._engine.begin() as writer:  # holds the write lock of SQLite
        writer.execute(reservations.delete())
        began_s = time.monotonic()
        assert balance(ledger) == (0, 600)
        assert time.monotonic() - began_s < 1


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


@pytest.mark.parametrize(
    ("window", "needs", "wait_s"),
    [
        (Window.minute, 600, 60),
        (Window.day, 600, 16 * 3600),
        (Window.month, 600, 16 * 3600 + 16 * 86400),
        (Window.total, 600, None),
        (Window.minute, 1001, None),
    ],
)
def test_a_shortage_knows_when_there_is_money_again(
    open_ledger: Open, window: Window, needs: int, wait_s: float | None
) -> None:
    ledger = open_ledger(Limit(Scope.service, window, 1000))
    reserve(ledger, claim("a", 500))
    ledger.settle({"a": 500})
    (shortage,) = ledger.reserve([claim("b", needs)], now_s=NOW_S, expires_s=LATER_S)
    assert shortage is not None
    assert (shortage.left_nano, shortage.needed_nano, shortage.held) == (500, needs, False)
    assert shortage.retry_at_s == (None if wait_s is None else NOW_S + wait_s)
    if wait_s is not None:
        assert reserve(ledger, claim("b", needs), now_s=NOW_S + wait_s) == [True]
        assert reserve(ledger, claim("c", needs), now_s=NOW_S + wait_s - 1) == [False]


def test_money_that_requests_in_flight_hold_is_worth_waiting_for(open_ledger: Open) -> None:
    ledger = open_ledger(Limit(Scope.service, Window.total, 1000))
    reserve(ledger, claim("a", 900))
    (shortage,) = ledger.reserve([claim("b", 200)], now_s=NOW_S, expires_s=LATER_S)
    assert shortage is not None
    assert shortage.held
    assert shortage.retry_at_s == NOW_S + 1


def test_the_limit_that_lasts_longest_is_told(open_ledger: Open) -> None:
    ledger = open_ledger(Limit(Scope.service, Window.minute, 10), Limit(Scope.key, Window.day, 10))
    reserve(ledger, claim("a", 10, key="k"))
    ledger.settle({"a": None})
    (shortage,) = ledger.reserve([claim("b", 5, key="k")], now_s=NOW_S, expires_s=LATER_S)
    assert shortage is not None
    assert (shortage.limit.scope, shortage.name) == (Scope.key, "k")


def test_what_is_reserved_in_one_window_is_settled_there(open_ledger: Open) -> None:
    ledger = open_ledger(Limit(Scope.service, Window.minute, 1000))
    reserve(ledger, claim("a", 1000), now_s=NOW_S + 59)
    assert reserve(ledger, claim("b", 1000), now_s=NOW_S + 60) == [True]
    ledger.settle({"a": 900, "b": 800})
    (of_now,) = ledger.statement(now_s=NOW_S + 60).of_limit(ledger.index.all[0])
    assert of_now[1].spent_nano == 800


def test_an_overdue_reservation_is_charged_in_full_and_corrected_if_its_end_is_told_after_all(
    open_ledger: Open,
) -> None:
    ledger = open_ledger(DAILY)
    reserve(ledger, claim("lost", 400), claim("late", 300), claim("released", 100))
    assert ledger.expire(now_s=NOW_S + 299) == 0
    assert ledger.expire(now_s=NOW_S + 300) == 3
    assert ledger.expire(now_s=NOW_S + 300) == 0
    assert balance(ledger) == (800, 0)
    ledger.settle({"late": 120, "released": 0})
    ledger.settle({"late": 120})
    assert balance(ledger) == (520, 0)


def test_old_minutes_are_forgotten_and_totals_are_not(open_ledger: Open) -> None:
    ledger = open_ledger(Limit(Scope.service, Window.minute, 1000))
    reserve(ledger, claim("a", 10))
    ledger.settle({"a": None})
    ledger.expire(now_s=NOW_S + KEEP_MINUTES_S + 61)
    assert [key.window for key in ledger.statement(now_s=NOW_S).balances] == [Window.total]
    assert balance(ledger) == (10, 0)


def test_what_is_old_is_forgotten_bit_by_bit(open_ledger: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.router.budget.ledger.PRUNE_ROWS", 2)
    ledger = open_ledger(Limit(Scope.key, Window.minute, 1000))
    reserve(ledger, *(claim(f"r{number}", 1, key=f"k{number}") for number in range(5)))
    ledger.settle({f"r{number}": 1 for number in range(5)})
    later_s = NOW_S + KEEP_MINUTES_S + 61

    def minutes() -> int:
        return sum(key.window is Window.minute for key in ledger.statement(now_s=NOW_S).balances)

    left = []
    for _ in range(4):
        ledger.expire(now_s=later_s)
        left.append(minutes())
    assert left == [3, 1, 0, 0]


def test_processes_that_make_the_same_counters_at_once_do_not_fail_each_other(url: str) -> None:
    """New windows begin for everybody in the same instant: what is locked in which order must not matter."""
    limits = [Limit(scope, Window.minute, 10**9) for scope in (Scope.service, Scope.key, Scope.tenant, Scope.model)]
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        granted = list(pool.map(_reserve_in_many_windows, [url] * 3, [limits] * 3, range(3)))
    assert granted == [20 * 8] * 3


def _reserve_in_many_windows(url: str, limits: list[Limit], worker: int) -> int:
    ledger = BudgetLedger(url, limits)
    granted = 0
    for number in range(20):
        claims = [
            claim(f"{worker}-{number}-{i}", 1, f"k{(i * (worker + 1)) % 8}", f"t{(i * 3 + worker) % 8}", f"m{i % 3}")
            for i in range(8)
        ]
        granted += sum(reserve(ledger, *claims, now_s=NOW_S + 60 * number))
        ledger.settle({one.id: 1 for one in claims})
    ledger.close()
    return granted


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


def test_everything_survives_a_restart(open_ledger: Open) -> None:
    first = open_ledger(DAILY)
    reserve(first, claim("a", 600), claim("b", 300))
    first.settle({"a": 500})
    first.close()
    second = open_ledger(DAILY)
    assert balance(second) == (500, 300)
    assert reserve(second, claim("c", 201)) == [False]
    second.settle({"b": 10})
    assert balance(second) == (510, 0)


def spend_all(url: str, worker: int) -> int:
    """Reserves small batches until nothing is left; settles each at once. Returns what it spent."""
    ledger = BudgetLedger(url, [Limit(Scope.service, Window.total, 10_000)])
    spent = 0
    for i in range(200):
        claims = [claim(f"{worker}-{i}-{j}", 97) for j in range(5)]
        granted = reserve(ledger, *claims)
        if not any(granted):
            break
        ledger.settle({c.id: 90 for c, ok in zip(claims, granted, strict=True) if ok})
        spent += 90 * sum(granted)
    ledger.close()
    return spent


def test_processes_that_share_a_database_share_its_limit(url: str, open_ledger: Open) -> None:
    ledger = open_ledger()
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        spent = sum(pool.map(spend_all, [url] * 3, range(3)))
    assert balance(ledger) == (spent, 0)
    assert 10_000 - 97 < spent <= 10_000


def generate_until_killed(url: str, journal: str) -> None:
    """Reserves, then 'generates' (a line in the journal, as an engine would), then settles; for ever."""
    ledger = BudgetLedger(url)
    with open(journal, "a", buffering=1) as lines:
        for i in range(10**9):
            reserve(ledger, claim(f"{os.getpid()}-{i}", 100))
            lines.write("70\n")
            ledger.settle({f"{os.getpid()}-{i}": 70})


def test_after_kill_9_nothing_that_was_generated_is_forgotten(url: str, open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    journal = tmp_path / "generated"
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        before = journal.stat().st_size if journal.exists() else 0
        process = context.Process(target=generate_until_killed, args=(url, str(journal)))
        process.start()
        deadline_s = time.monotonic() + 30
        while not journal.exists() or journal.stat().st_size < before + 100:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        generated = sum(int(line) for line in journal.read_text().split())
        spent, reserved = balance(ledger)
        assert spent + reserved >= generated
    ledger.expire(now_s=NOW_S + 300)
    spent, reserved = balance(ledger)
    assert reserved == 0
    assert generated <= spent <= generated + 3 * 100


def test_a_locked_database_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apportion.router.budget.schema.BUSY_TIMEOUT_S", 0.05)
    ledger = BudgetLedger(f"sqlite:///{tmp_path}/b.db", [DAILY])
    other = sqlite3.connect(tmp_path / "b.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="does not answer"):
        reserve(ledger, claim("a", 1))
    other.execute("ROLLBACK")
    other.close()
    assert reserve(ledger, claim("a", 1)) == [True]
    ledger.close()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("nonsense", "no database URL"),
        ("sqlite://", "name a file"),
        ("sqlite:////nowhere/at/all/b.db", "make it first"),
        ("mysql://x/y", "sqlite or a postgresql"),
    ],
)
def test_wrong_databases_are_named(wrong: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        BudgetLedger(wrong)


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


def test_only_the_newest_router_of_a_service_writes(url: str) -> None:
    limits = [Limit(Scope.service, Window.total, 100)]
    old, other, anyone = (BudgetLedger(url, limits, owner=name) for name in ("a", "b", None))
    assert reserve(old, claim("r", 10)) == [True]
    new = BudgetLedger(url, limits, owner="a")
    for forbidden in (
        lambda: reserve(old, claim("s", 10)),
        lambda: old.settle({"r": 0}),
        lambda: old.look([Account()], ["small"], now_s=NOW_S, ends={"r": 0}),
    ):
        with pytest.raises(LedgerError, match="newer router"):
            forbidden()
    assert old.superseded
    assert balance(new) == (0, 10)
    new.settle({"r": 4})
    for ledger, name in ((new, "t"), (other, "u"), (anyone, "v")):
        assert reserve(ledger, claim(name, 1)) == [True]
        assert not ledger.superseded
    assert balance(new) == (4, 3)
    for ledger in (old, other, anyone, new):
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
