from dataclasses import replace

import pytest

from apportion.router.batch.messages import Done, Ending, EngineReplica, Held, RouteItem
from apportion.router.batch.reservations.fleet import BREAKER_MEMORY_S, REPLICA_TTL_S, Fleet
from apportion.router.budget import Account, Job


def replica(name: str, model: str = "small", slots: int = 4, draining: bool = False) -> EngineReplica:
    return EngineReplica(name, model, f"http://{name}", slots, draining)


def item(name: str, **fields: object) -> RouteItem:
    return RouteItem(id=name, **fields)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    fleet = Fleet(["small", "large"], clock)
    for one in (replica("s1"), replica("s2"), replica("l1", "large", 2)):
        assert fleet.announce(one)
    return fleet


def fail(fleet: Fleet, model: str, times: int = 3) -> None:
    for number in range(times):
        name = f"{model}-fails-{number}"
        assert fleet.seat(item(name), model) is not None
        fleet.end(Done(name, None, Ending.engine_failed))


def test_a_replica_that_fails_in_a_row_is_left_alone_then_tried_with_one(fleet: Fleet, clock: Clock) -> None:
    fail(fleet, "large")
    assert fleet.capacity().tolist() == [8, 0]
    assert fleet.describe()["replicas"]["l1"]["breaker"] == "open"
    clock.now_s = 102.0
    assert fleet.sweep()
    assert fleet.free_slots().tolist() == [8, 1]
    assert fleet.seat(item("trial"), "large") is not None
    assert fleet.seat(item("second"), "large") is None
    fleet.end(Done("trial", 1e-6))
    assert fleet.free_slots().tolist() == [8, 2]


def test_failures_do_not_add_up_over_replicas(fleet: Fleet) -> None:
    fail(fleet, "small", times=2)
    assert fleet.capacity().tolist() == [8, 2]


def test_refused_connections_open_the_breaker_and_heartbeats_do_not_close_it(fleet: Fleet, clock: Clock) -> None:
    for number in range(3):
        assert fleet.capacity().tolist() == [8, 2], "one ingress that cannot reach it may be the one in trouble"
        assert fleet.seat(item(f"r{number}"), "large") is not None
        fleet.end(Done(f"r{number}", None, Ending.unreachable))
        fleet.announce(replica("l1", "large", 2))
    assert fleet.capacity().tolist() == [8, 0]
    clock.now_s += 2
    fleet.announce(replica("l1", "large", 2))
    assert fleet.sweep()
    assert fleet.free_slots().tolist() == [8, 1]


def test_a_replica_that_went_silent_comes_back_with_what_is_known_of_it(fleet: Fleet, clock: Clock) -> None:
    fail(fleet, "large")
    clock.now_s += REPLICA_TTL_S + 1
    assert fleet.sweep()
    fleet.announce(replica("l1", "large", 2))
    assert fleet.free_slots()[1] == 1, "its trial is due, and only that"
    fail(fleet, "large", times=1)
    fleet.announce(replica("l1", "large", 2, draining=True))
    fleet.announce(replica("l1", "large", 2))
    assert fleet.free_slots()[1] == 0
    fleet.announce(replica("l1", "large", 2, draining=True))
    clock.now_s += BREAKER_MEMORY_S + 1
    fleet.sweep()
    fleet.announce(replica("l1", "large", 2))
    assert fleet.free_slots()[1] == 2, "that was long ago"


def test_silent_and_leaving_replicas_are_dropped(fleet: Fleet, clock: Clock) -> None:
    fleet.announce(replica("l1", "large", 2, draining=True))
    assert fleet.capacity().tolist() == [8, 0]
    clock.now_s += REPLICA_TTL_S + 1
    assert fleet.sweep()
    assert fleet.capacity().tolist() == [0, 0]


def test_an_attempt_avoids_the_replica_that_failed_and_later_the_model(fleet: Fleet) -> None:
    again = item("r-1", avoid_replicas=("s1",))
    assert fleet.avoided([item("other"), again]).tolist() == [[False, False], [False, False]]
    assert fleet.seat(again, "small").id == "s2"
    nowhere = item("q-1", avoid_replicas=("l1",))
    assert fleet.avoided([nowhere]).tolist() == [[False, True]]
    last = item("p-2", avoid_replicas=("s1",), avoid_models=("small",))
    assert fleet.avoided([last]).tolist() == [[True, False]]
    assert fleet.avoided([item("plain")]) is None


def test_what_a_former_router_had_seated_takes_its_slots(fleet: Fleet) -> None:
    fleet.adopt(Held("old", "large", "l1", 1, 1e-6))
    assert fleet.free_slots().tolist() == [8, 1]
    fleet.end(Done("old", 1e-6))
    assert fleet.free_slots().tolist() == [8, 2]
    assert fleet.in_flight == 0


def test_what_a_replica_answers_as_it_is_first_heard_of_takes_its_slots_until_somebody_claims_it(fleet: Fleet) -> None:
    def beat(**running: int) -> bool:
        return fleet.announce(replace(replica("s3", slots=8), running=running))

    assert beat(lost=3, held=2, ended=1)
    assert fleet.free_slots().tolist() == [8 + 2, 2]
    for _ in range(2):  # an ingress tells of what it holds once, or again
        fleet.adopt(Held("held", "small", "s3", 2, 1e-6))
    assert fleet.free_slots().tolist() == [8 + 2, 2]
    fleet.end(Done("ended", 1e-6))  # its ingress has told the end, and had no need to tell that it held it
    assert not beat(lost=3, new=5)
    assert fleet.free_slots().tolist() == [8 + 3, 2], "what begins later is seated by those who sent it"
    assert beat(new=5), "slots are free again"
    assert fleet.free_slots().tolist() == [8 + 6, 2]
    assert fleet.in_flight == 1
    fleet.end(Done("held", 1e-6))
    assert fleet.in_flight == 0


def test_a_row_of_a_job_counts_as_one_once_its_runner_has_told_of_it(fleet: Fleet) -> None:
    fleet.announce(replace(replica("s3"), running={"row": 1}))
    assert fleet.used_by_bulk().tolist() == [0, 0]
    fleet.adopt(Held("row", "small", "s3", 1, 1e-6, Account(job=Job("job"))))
    assert fleet.used_by_bulk().tolist() == [1, 0]


def test_what_nobody_has_claimed_goes_with_its_replica(fleet: Fleet, clock: Clock) -> None:
    fleet.announce(replace(replica("l2", "large"), running={"lost": 1}))
    assert fleet.in_flight == 1
    clock.now_s += REPLICA_TTL_S + 1
    fleet.sweep()
    assert fleet.in_flight == 0


def test_silent_replicas_are_named_until_they_are_heard_of_or_forgotten(fleet: Fleet, clock: Clock) -> None:
    fleet.announce(replica("l1", "large", 2, draining=True))
    clock.now_s += REPLICA_TTL_S + 1
    fleet.sweep()
    assert fleet.silent == ("s1", "s2"), "who leaves finishes what it answers"
    fleet.announce(replica("s1"))
    assert fleet.silent == ("s2",)
    clock.now_s += BREAKER_MEMORY_S + 1
    fleet.announce(replica("s1"))
    fleet.sweep()
    assert fleet.silent == ()


def test_a_model_that_is_to_have_no_replica_is_not_waited_for(clock: Clock) -> None:
    fleet = Fleet(["small", "large"], clock, expected=["small"])
    assert not fleet.complete
    fleet.announce(replica("l1", "large"))
    assert not fleet.complete
    fleet.announce(replica("s1"))
    assert fleet.complete


def test_a_replica_whose_provider_is_busy_is_waited_for_and_no_failure(fleet: Fleet, clock: Clock) -> None:
    for number in range(5):
        assert fleet.seat(item(f"r{number}"), "large") is not None
        fleet.end(Done(f"r{number}", None, Ending.busy, busy_s=2.0))
        assert fleet.free_slots().tolist() == [8, 0]
        assert fleet.capacity().tolist() == [8, 2], "it can be waited for"
        assert fleet.seat(item("other"), "large") is None
        fleet.announce(replica("l1", "large", 2))
        assert fleet.free_slots().tolist() == [8, 0], "a heartbeat does not end it"
        clock.now_s += 2
        assert fleet.free_slots().tolist() == [8, 2]
    assert fleet.describe()["replicas"]["l1"]["breaker"] == "closed"


def test_a_pause_ends_with_the_longest_and_is_bounded(fleet: Fleet, clock: Clock) -> None:
    assert fleet.seat(item("a"), "large") is not None
    assert fleet.seat(item("b"), "large") is not None
    for name, busy_s in (("a", 5.0), ("b", 1.0)):
        fleet.end(Done(name, None, Ending.busy, busy_s=busy_s))
    clock.now_s += 4.9
    assert fleet.room().tolist()[1] == 0
    clock.now_s += 0.2
    assert fleet.sweep(), "what waits may be served now"
    assert fleet.seat(item("c"), "large") is not None
    fleet.end(Done("c", None, Ending.busy, busy_s=1e9))
    clock.now_s += 60.1
    fleet.announce(replica("l1", "large", 2))
    assert fleet.free_slots().tolist() == [8, 2]


def test_more_slots_than_before_are_news(fleet: Fleet) -> None:
    assert not fleet.announce(replica("l1", "large", 2))
    assert fleet.announce(replica("l1", "large", 5))
    assert not fleet.announce(replica("l1", "large", 0))
    assert fleet.capacity().tolist() == [8, 0]
    assert fleet.announce(replica("l1", "large", 1))
    fleet.announce(EngineReplica("l1", "large", "http://l1", 0, trouble="credentials refused"))
    assert fleet.describe()["replicas"]["l1"]["trouble"] == "credentials refused"
