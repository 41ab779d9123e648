"""Limits of a provider as slots and as turns, by a clock that is moved by hand."""

from __future__ import annotations

import heapq
from collections import Counter

import pytest

from apportion.router.quota.quota import BEGINNING, LONGEST_BLOCK_S, Quota


def run(quota: Quota, seconds: float, *, lasts_s: float, tokens: float = 100.0, booked: float = 100.0) -> list[float]:
    """Asks whenever a slot is free; when each request was sent."""
    now_s = 0.1
    ends: list[float] = []
    sent: list[float] = []
    held: list[float] = []
    while now_s < seconds:
        while held and held[0] <= now_s:
            heapq.heappush(ends, heapq.heappop(held) + lasts_s)
        while ends and ends[0] <= now_s:
            heapq.heappop(ends)
            quota.answered(lasts_s, booked, tokens)
            quota.running -= 1
        while quota.running < quota.slots():
            wait_s, taken = quota.book(now_s, booked)
            if not taken:
                break
            quota.running += 1
            heapq.heappush(held, now_s + wait_s)
            sent.append(now_s + wait_s)
        now_s += 0.005
    return [at_s for at_s in sent if at_s < seconds]


@pytest.mark.parametrize("per_minute", [60.0, 600.0, 3000.0])
@pytest.mark.parametrize("lasts_s", [0.05, 1.0, 8.0])
def test_a_rate_is_used_and_kept_in_every_second(per_minute: float, lasts_s: float) -> None:
    quota = Quota(4000, requests_per_minute=per_minute)
    sent = run(quota, 60, lasts_s=lasts_s)
    assert max(Counter(int(at_s) for at_s in sent).values()) <= max(1, per_minute / 60)
    assert len([at_s for at_s in sent if at_s >= 30]) >= 0.9 * per_minute / 2


def test_tokens_are_a_rate_too_and_booked_ones_that_were_not_used_come_back() -> None:
    quota = Quota(1000, tokens_per_minute=60_000)
    sent = run(quota, 60, lasts_s=1.0, tokens=200, booked=500)
    assert 0.9 * 60_000 <= 200 * len(sent) <= 1.1 * 60_000


def test_slots_are_by_littles_law() -> None:
    quota = Quota(64, requests_per_minute=120)
    for _ in range(100):
        quota.answered(5.0, 100, 100)
    assert quota.slots() == 11  # 2 a second, less a margin, for 5.2 s each
    quota = Quota(64, tokens_per_minute=6_000)
    for _ in range(100):
        quota.answered(5.0, 50, 50)
    assert quota.slots() == 11
    assert Quota(3).slots() == 3
    assert Quota(64).slots() == BEGINNING


def test_what_no_limit_says_is_found_as_tcp_finds_it() -> None:
    quota = Quota(64)
    for _ in range(200):
        quota.running = quota.slots()
        quota.answered(1.0, 1, 1)
    grown = quota.slots()
    assert grown > BEGINNING
    quota.running = grown
    quota.refused(100.0, 0.5)
    assert quota.slots() == grown // 2
    quota.refused(100.1, 0.5)  # sent before anybody knew
    assert quota.slots() == grown // 2
    quota.running = 1  # idle: nothing shows that more would be taken
    for _ in range(100):
        quota.answered(1.0, 1, 1)
    assert quota.slots() == grown // 2


def test_after_a_refusal_nothing_is_sent_for_as_long_as_it_says() -> None:
    quota = Quota(64)
    assert quota.refused(10.0, 5.0) == 5.0
    assert quota.book(11.0, 1) == (4.0, False)
    assert quota.blocked_s(12.0) == 3.0
    assert quota.book(15.0, 1) == (0.0, True)
    assert quota.refused(20.0, 1e9) == LONGEST_BLOCK_S


def test_a_refusal_that_says_nothing_waits_twice_as_long_each_time() -> None:
    quota, now_s = Quota(64), 0.0
    for wait_s in (1.0, 2.0, 4.0):
        assert quota.refused(now_s, None) == wait_s
        now_s += 10
    quota.answered(1.0, 1, 1)
    assert quota.refused(now_s, None) == 1.0


def test_what_was_booked_and_not_sent_is_free_again() -> None:
    quota = Quota(64, requests_per_minute=60)
    assert quota.book(1.0, 1) == (0.0, True)
    wait_s, booked = quota.book(1.0, 1)
    assert booked
    assert wait_s == pytest.approx(60 / 58.2, abs=0.01)
    assert quota.book(1.0, 1)[1] is False
    quota.withdraw(1)
    assert quota.book(1.0, 1) == (pytest.approx(wait_s), True)
