import numpy as np

from router.ledger import Ledger


def make_ledger() -> Ledger:
    ledger = Ledger(2)
    ledger.join("a1", 0, 2)
    ledger.join("a2", 0, 3)
    ledger.join("b1", 1, 1)
    return ledger


def test_slots_are_the_sum_over_replicas() -> None:
    np.testing.assert_array_equal(make_ledger().free_slots(), [5, 1])


def test_reserving_takes_the_least_used_replica_and_settling_gives_it_back() -> None:
    ledger = make_ledger()
    assert ledger.reserve("r1", 0, 1, 0.25) == "a2"
    assert ledger.reserve("r2", 0, 2, 0.5) in {"a1", "a2"}
    np.testing.assert_array_equal(ledger.free_slots(), [2, 1])
    assert ledger.reserved_usd == 0.75
    ledger.settle("r1", 0.125)
    ledger.release("r2")
    np.testing.assert_array_equal(ledger.free_slots(), [5, 1])
    assert (ledger.reserved_usd, ledger.spent_usd, ledger.in_flight) == (0.0, 0.125, 0)


def test_unknown_cost_is_charged_as_reserved() -> None:
    ledger = make_ledger()
    ledger.reserve("r1", 1, 1, 0.5)
    ledger.settle("r1", None)
    assert ledger.spent_usd == 0.5


def test_settling_twice_charges_once() -> None:
    ledger = make_ledger()
    ledger.reserve("r1", 1, 1, 0.5)
    ledger.settle("r1", 0.4)
    ledger.settle("r1", 0.4)
    ledger.release("r1")
    assert ledger.spent_usd == 0.4
    np.testing.assert_array_equal(ledger.free_slots(), [5, 1])


def test_a_full_model_seats_nobody() -> None:
    ledger = make_ledger()
    assert ledger.reserve("r1", 1, 1, 0.0) == "b1"
    assert ledger.reserve("r2", 1, 1, 0.0) is None
    assert ledger.in_flight == 1


def test_the_same_request_is_seated_once() -> None:
    ledger = make_ledger()
    ledger.reserve("r1", 0, 1, 0.1)
    assert ledger.reserve("r1", 0, 1, 0.1) is None
    assert ledger.free_slots()[0] == 4


def test_more_sequences_than_slots_need_a_wholly_free_replica() -> None:
    ledger = make_ledger()
    assert ledger.reserve("r1", 1, 9, 0.0) == "b1"
    assert ledger.free_slots()[1] == 0
    ledger.release("r1")
    assert ledger.free_slots()[1] == 1


def test_a_replica_that_leaves_takes_its_slots_and_keeps_its_debts() -> None:
    ledger = make_ledger()
    ledger.reserve("r1", 1, 1, 0.5)
    ledger.leave("b1")
    assert ledger.capacity()[1] == 0
    assert ledger.reserved_usd == 0.5
    ledger.settle("r1", 0.5)
    assert (ledger.spent_usd, ledger.in_flight) == (0.5, 0)
    ledger.join("b1", 1, 4)
    assert ledger.free_slots()[1] == 4
