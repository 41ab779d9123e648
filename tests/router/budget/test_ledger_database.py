from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from apportion.router.budget import Account, Limit, Scope, Window
from apportion.router.budget.ledger import BudgetLedger
from apportion.router.budget.schema import BUSY_TIMEOUT_S, reservations
from apportion.router.errors import ConfigurationError, LedgerError
from tests.router.budget.claims import DAILY, NOW_S, Open, balance, claim, reserve


def test_a_statement_waits_for_no_writer(open_ledger: Open) -> None:
    ledger = open_ledger(DAILY)
    assert reserve(ledger, claim("a", 600)) == [True]
    with ledger._engine.begin() as writer:  # holds the write lock of SQLite
        writer.execute(reservations.delete())
        began_s = time.monotonic()
        assert balance(ledger) == (0, 600)
        assert time.monotonic() - began_s < BUSY_TIMEOUT_S / 2


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
