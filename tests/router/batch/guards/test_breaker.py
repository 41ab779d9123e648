from apportion.router.batch.guards.breaker import Breaker, BreakerState


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker(failures=3, cool_down_s=1.0, longest_s=3.0)
    for _ in range(3):
        breaker.failure(at_s)
    return breaker


def test_only_failures_in_a_row_open_it() -> None:
    breaker = Breaker(failures=2)
    breaker.failure(0.0)
    breaker.success()
    breaker.failure(0.0)
    assert breaker.state(0.0) is BreakerState.closed
    breaker.failure(0.0)
    assert breaker.state(0.0) is BreakerState.open
    assert not breaker.allows(0.5)


def test_after_the_cool_down_a_trial_decides() -> None:
    breaker = opened()
    assert breaker.state(1.0) is BreakerState.half_open
    assert breaker.allows(1.0)
    breaker.success()
    assert breaker.state(1.0) is BreakerState.closed


def test_every_failed_trial_doubles_the_wait_up_to_a_bound() -> None:
    breaker = opened()
    now_s = 0.0
    waits = []
    for _ in range(4):
        start_s = now_s
        while not breaker.allows(now_s):
            now_s += 0.25
        waits.append(now_s - start_s)
        breaker.failure(now_s)
    assert waits == [1.0, 2.0, 3.0, 3.0]


def test_a_success_forgets_the_doubling() -> None:
    breaker = opened()
    breaker.failure(1.0)
    breaker.success()
    for _ in range(3):
        breaker.failure(10.0)
    assert breaker.state(11.0) is BreakerState.half_open


def test_failures_of_what_was_begun_before_it_opened_do_not_prolong_it() -> None:
    breaker = opened()
    for _ in range(10):
        breaker.failure(0.9)
    assert breaker.state(1.0) is BreakerState.half_open
