import pytest

from apportion.router.batch.guards.rate import RateLimiter
from apportion.router.errors import RateLimitError


def test_a_steady_rate_passes_and_a_faster_one_waits() -> None:
    limiter = RateLimiter({"k": 60}, burst_s=1)
    assert [limiter.take("k", float(s)) for s in range(5)] == [None] * 5
    assert limiter.take("k", 4.25) == pytest.approx(0.75)
    assert limiter.take("k", 5.0) is None


def test_a_burst_is_some_seconds_worth() -> None:
    limiter = RateLimiter({"k": 120}, burst_s=5)
    assert sum(limiter.take("k", 0.0) is None for _ in range(30)) == 10
    assert limiter.take("k", 0.5) is None
    assert limiter.take("k", 0.5) == pytest.approx(0.5)


def test_a_slow_rate_lets_one_through_at_a_time() -> None:
    limiter = RateLimiter({"k": 1})
    assert limiter.take("k", 0.0) is None
    assert limiter.take("k", 30.0) == pytest.approx(30.0)
    assert limiter.take("k", 60.0) is None


def test_over_a_minute_no_more_pass_than_the_rate_and_one_burst() -> None:
    limiter = RateLimiter({"k": 60}, burst_s=5)
    passed = sum(limiter.take("k", i / 100) is None for i in range(6000))
    assert 60 <= passed <= 65


def test_others_are_not_slowed() -> None:
    limiter = RateLimiter({"k": 1})
    limiter.take("k", 0.0)
    assert limiter.take("k", 0.0) is not None
    assert [limiter.take(name, 0.0) for name in ("other", None)] == [None, None]


def test_many_that_come_as_one_are_counted_one_by_one() -> None:
    limiter = RateLimiter({}, otherwise=60)
    assert limiter.take("", 0.0, 100) is None
    assert limiter.take("", 0.0) == pytest.approx(96)
    assert limiter.take("another", 0.0) is None
    assert limiter.take("", 96.0) is None


@pytest.mark.parametrize("per_minute", [1.0, 6.0, 60.0, 600.0])
def test_with_slack_whoever_keeps_to_the_rate_always_passes_and_a_flood_does_not(per_minute: float) -> None:
    limiter = RateLimiter({"k": per_minute}, slack=2)
    interval_s = 60 / per_minute
    # On time, then once more soon after: the stricter limiter behind this one had got it a moment too early.
    for second in range(50):
        for later_s in (0.0, 0.01):
            assert limiter.take("k", second * interval_s + later_s) is None
    passed = sum(limiter.take("k", 60 * interval_s + i * interval_s / 100) is None for i in range(10_000))
    assert 200 <= passed <= 202 + 10 / interval_s


def test_who_asks_too_often_is_told_what_it_may() -> None:
    limiter = RateLimiter({"k": 30})
    for _ in range(2):
        limiter.check("k", 0.0, "you may send")
    with pytest.raises(RateLimitError, match=r"you may send 30 requests a minute; try again in 1\.0 s") as caught:
        limiter.check("k", 0.0, "you may send")
    assert caught.value.retry_after_s == pytest.approx(1.0)


def test_who_asks_for_many_as_one_is_told_so_too() -> None:
    limiter = RateLimiter({}, otherwise=60)
    limiter.check("k", 0.0, "you may plan", 100)
    with pytest.raises(RateLimitError, match=r"you may plan 60 requests a minute; try again in 96\.0 s"):
        limiter.check("k", 0.0, "you may plan")
