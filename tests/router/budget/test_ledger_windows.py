from __future__ import annotations

import pytest

from apportion.router.budget import Limit, Scope, Window
from apportion.router.budget.ledger import KEEP_MINUTES_S
from tests.router.budget.claims import DAILY, LATER_S, NOW_S, Open, balance, claim, reserve


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
