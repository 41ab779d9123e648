from __future__ import annotations

import numpy as np
import pytest

from apportion.router.batch.messages import EngineReplica, Held, RouteItem
from apportion.router.batch.reservations.bulk_share import BulkRule, BulkShare, Demand, default_reserve
from apportion.router.batch.reservations.fleet import Fleet
from apportion.router.budget import Account, Job

MODELS = ("small", "large")
RULE = BulkRule()
ROW = Account(job=Job("job"))


def fleet(rule: BulkRule = RULE, **slots: int) -> Fleet:
    made = Fleet(MODELS, lambda: 0.0, bulk=BulkShare(MODELS, rule))
    for model, count in slots.items():
        made.announce(EngineReplica(f"{model}-0", model, f"http://{model}", count))
    return made


def seat(made: Fleet, name: str, *, bulk: bool, sequences: int = 1, model: str = "small") -> bool:
    item = RouteItem(name, account=ROW if bulk else Account(), sequences=sequences)
    return made.seat(item, model) is not None


@pytest.mark.parametrize(("slots", "reserve"), [(1, 2), (4, 3), (16, 6), (64, 12), (256, 24)])
def test_the_reserve_grows_with_the_square_root_of_the_slots(slots: int, reserve: int) -> None:
    assert default_reserve(slots) == reserve


def test_bulk_leaves_the_reserve_and_interactive_requests_take_it() -> None:
    made = fleet(small=16)
    assert made.free_slots(bulk=True).tolist() == [10, 0]
    assert [seat(made, f"b{i}", bulk=True) for i in range(11)] == [True] * 10 + [False]
    assert made.free_slots().tolist() == [6, 0]
    assert [seat(made, f"i{i}", bulk=False) for i in range(7)] == [True] * 6 + [False]
    made.release("i0")
    assert not seat(made, "b11", bulk=True)  # what is free is the reserve's
    made.release("b0")
    assert not seat(made, "b12", bulk=True)
    assert made.free_slots().tolist() == [2, 0]


def test_of_a_small_model_one_slot_is_left_to_bulk() -> None:
    made = fleet(small=2, large=1)
    assert made.bulk.most(made.capacity()).tolist() == [1, 1]
    assert made.bulk.most(fleet().capacity()).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("rule", "most"),
    [
        (BulkRule({"small": 2}), [8, 5]),
        (BulkRule(max_share=0.25), [2, 2]),
        (BulkRule(max_share=0.01), [1, 1]),
        (BulkRule({"small": 9}, only=True), [10, 10]),
    ],
)
def test_what_bulk_may_have_is_configured(rule: BulkRule, most: list[int]) -> None:
    made = fleet(rule, small=10, large=10)
    assert made.bulk.most(made.capacity()).tolist() == most
    assert [seat(made, f"b{i}", bulk=True) for i in range(most[0] + 1)] == [True] * most[0] + [False]


def test_haste_takes_the_reserve_down_to_its_least() -> None:
    share, capacity = BulkShare(MODELS, BulkRule(least_reserve=2)), np.array([64, 64])
    found = []
    for haste in (0.0, 0.5, 1.0):
        share.haste = haste
        found.append(int(share.reserve(capacity)[0]))
    assert found == [12, 7, 2]


def test_what_interactive_requests_are_about_to_take_is_not_bulk_s() -> None:
    made = fleet(small=16, large=16)
    made.bulk.demand = lambda: Demand(deciding=3, models=0b10)
    assert made.free_slots(bulk=True).tolist() == [7, 0]
    assert made.free_slots().tolist() == [16, 16]


def test_a_row_of_more_answers_than_bulk_has_slots_runs_where_no_other_row_is() -> None:
    made = fleet(small=8)  # of which bulk has three
    assert not seat(made, "narrow-first", bulk=True, sequences=1) or made.room(bulk=True)[0] == 2
    assert not seat(made, "wide", bulk=True, sequences=6)
    made.release("narrow-first")
    assert seat(made, "wide", bulk=True, sequences=6)
    assert not seat(made, "narrow", bulk=True)


def test_a_router_that_restarts_counts_rows_in_flight_as_bulk() -> None:
    made = fleet(small=16)
    for i in range(10):
        made.adopt(Held(f"b{i}", "small", "small-0", 1, 0.0, ROW))
    assert made.free_slots(bulk=True).tolist() == [0, 0]
    assert made.free_slots().tolist() == [6, 0]
