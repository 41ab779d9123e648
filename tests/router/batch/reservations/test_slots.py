import numpy as np

from apportion.router.batch.reservations.slots import SlotLedger


def make_slots() -> SlotLedger:
    slots = SlotLedger(2)
    slots.join("a1", 0, 2)
    slots.join("a2", 0, 3)
    slots.join("b1", 1, 1)
    return slots


def test_slots_are_the_sum_over_replicas() -> None:
    np.testing.assert_array_equal(make_slots().free_slots(), [5, 1])


def test_reserving_takes_the_least_used_replica_and_releasing_gives_it_back() -> None:
    slots = make_slots()
    assert slots.reserve("r1", 0, 1) == "a2"
    assert slots.reserve("r2", 0, 2) in {"a1", "a2"}
    np.testing.assert_array_equal(slots.free_slots(), [2, 1])
    slots.release("r1")
    slots.release("r2")
    np.testing.assert_array_equal(slots.free_slots(), [5, 1])
    assert slots.in_flight == 0


def test_a_replica_that_is_rather_had_is_taken_unless_another_has_far_more_room() -> None:
    slots = SlotLedger(1)
    slots.join("a", 0, 8)
    slots.join("b", 0, 8)
    slots.reserve("r0", 0, 3, avoid={"b"})
    assert slots.reserve("r1", 0, 1, rather="a") == "a"
    assert slots.reserve("r2", 0, 1, avoid={"a"}, rather="a") == "b"
    slots.release("r2")
    slots.reserve("r3", 0, 1, avoid={"b"})
    assert slots.reserve("r4", 0, 1, rather="a") == "b", "three are free on a, eight on b"
    assert slots.reserve("r5", 0, 1, rather="gone") == "b"


def test_releasing_twice_frees_once() -> None:
    slots = make_slots()
    slots.reserve("r1", 1, 1)
    slots.reserve("r2", 0, 1)
    slots.release("r1")
    slots.release("r1")
    np.testing.assert_array_equal(slots.free_slots(), [4, 1])


def test_a_full_model_seats_nobody() -> None:
    slots = make_slots()
    assert slots.reserve("r1", 1, 1) == "b1"
    assert slots.reserve("r2", 1, 1) is None
    assert slots.in_flight == 1


def test_the_same_request_is_seated_once() -> None:
    slots = make_slots()
    slots.reserve("r1", 0, 1)
    assert slots.reserve("r1", 0, 1) is None
    assert slots.free_slots()[0] == 4


def test_more_sequences_than_slots_start_where_half_of_them_are_free() -> None:
    slots = SlotLedger(1)
    slots.join("a", 0, 8)
    for number in range(5):
        slots.reserve(f"one{number}", 0, 1)
    assert slots.room().tolist() == [3]
    assert slots.reserve("many", 0, 9) is None
    slots.release("one0")
    assert slots.room()[0] >= 9
    assert slots.reserve("many", 0, 9) == "a"
    assert slots.free_slots().tolist() == [0]
    slots.release("many")
    assert slots.free_slots().tolist() == [4]


def test_there_is_room_where_one_replica_has_it_not_in_the_sum_of_all() -> None:
    slots = SlotLedger(1)
    for replica in ("a", "b"):
        slots.join(replica, 0, 8)
        for number in range(5):
            slots.reserve(f"{replica}{number}", 0, 1)
    assert slots.free_slots().tolist() == [6]
    assert slots.reserve("four", 0, 4) is None
    assert slots.room().tolist() == [3]


def test_a_replica_that_leaves_takes_its_slots_and_comes_back_with_all_of_them() -> None:
    slots = make_slots()
    slots.reserve("r1", 1, 1)
    slots.leave("b1")
    assert slots.capacity()[1] == 0
    assert slots.seat_of("r1").replica == "b1"
    slots.release("r1")
    assert slots.in_flight == 0
    slots.join("b1", 1, 4)
    assert slots.free_slots()[1] == 4


def test_a_restricted_replica_takes_no_more_than_it_may() -> None:
    slots = make_slots()
    slots.restrict("b1", 0)
    np.testing.assert_array_equal(slots.capacity(), [5, 0])
    assert slots.reserve("r1", 1, 1) is None
    slots.restrict("a1", 0)
    slots.restrict("a2", 1)
    assert slots.reserve("r2", 0, 1) == "a2"
    assert slots.reserve("r3", 0, 1) is None
    slots.restrict("a2", None)
    assert slots.reserve("r3", 0, 2) == "a2"


def test_a_restricted_replica_gets_its_trial_although_others_have_more_room() -> None:
    slots = make_slots()
    slots.restrict("a1", 1)
    assert slots.reserve("r1", 0, 1) == "a1"
    assert slots.reserve("r2", 0, 1) == "a2", "one trial at a time"
    slots.release("r1")
    slots.restrict("a1", 0)
    assert slots.reserve("r3", 0, 1) == "a2"


def test_a_replica_to_avoid_is_not_taken() -> None:
    slots = make_slots()
    assert slots.reserve("r1", 0, 1, avoid={"a2"}) == "a1"
    assert slots.reserve("r2", 1, 1, avoid={"b1"}) is None


def test_requests_in_flight_are_adopted_before_or_after_their_replica_joins() -> None:
    slots = SlotLedger(1)
    slots.adopt("r1", 0, 2, "a1")
    np.testing.assert_array_equal(slots.capacity(), [0])
    slots.join("a1", 0, 3)
    np.testing.assert_array_equal(slots.free_slots(), [1])
    slots.adopt("r1", 0, 2, "a1")
    slots.adopt("r2", 0, 1, "a1")
    np.testing.assert_array_equal(slots.free_slots(), [0])
    slots.release("r1")
    slots.release("r2")
    np.testing.assert_array_equal(slots.free_slots(), [3])
