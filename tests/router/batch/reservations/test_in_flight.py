from __future__ import annotations

import numpy as np
import pytest

from apportion.router.batch.concurrency import ConcurrencyLimit, Counted
from apportion.router.batch.reservations.in_flight import InFlight, Load
from apportion.router.budget import Account

COLUMNS = ("qwen@quick", "qwen@think", "tiny")
NOBODY = Account()


def made(*limits: ConcurrencyLimit, slots: tuple[int, int] = (10, 5)) -> InFlight:
    in_flight = InFlight(("qwen", "tiny"), lambda: np.array(slots))
    in_flight.set_limits(limits, COLUMNS)
    return in_flight


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        (ConcurrencyLimit("a", share=0.29), 4),
        (ConcurrencyLimit("a", share=0.3, models=("qwen",)), 3),
        (ConcurrencyLimit("a", share=0.3, models=("qwen@think",)), 3),
        (ConcurrencyLimit("a", share=0.01, models=("tiny",)), 1),
        (ConcurrencyLimit("a", at_most=99, models=("tiny",)), 99),
    ],
)
def test_a_share_is_of_the_slots_that_there_are_and_one_at_least(limit: ConcurrencyLimit, most: int) -> None:
    assert made(limit).describe()["a"]["at_most"] == most
    nothing = made(limit, slots=(0, 0)).describe()["a"]["at_most"]
    assert nothing == (99 if limit.share is None else 0)


def test_a_share_counts_no_slot_short_for_rounding() -> None:
    assert made(ConcurrencyLimit("a", share=0.29), slots=(100, 0)).describe()["a"]["at_most"] == 29


def test_what_counts_is_by_caller_and_model_and_kind() -> None:
    in_flight = made(
        ConcurrencyLimit("tenant", Counted.requests, at_most=9, tenants=("acme", "unnamed")),
        ConcurrencyLimit("key", Counted.slots, at_most=9, models=("qwen@think",), keys=("k",)),
        ConcurrencyLimit("both", Counted.tokens, at_most=99, models=("qwen",), tenants=("acme",), keys=("k",)),
    )
    loads = {
        "a": Load("qwen@think", Account("k", "acme"), 3, 30),
        "b": Load("qwen@quick", Account("k", "acme"), 2, 20),
        "c": Load("tiny", NOBODY, 2, 5),
        "d": Load("qwen@think", Account("other", "acme"), 1, 7),
    }
    counts = {"a": (1, 3, 30), "b": (1, 0, 20), "c": (1, 0, 0), "d": (1, 0, 0)}
    for name, load in loads.items():
        in_flight.begin(name, load)
        in_flight.begin(name, load)
    assert used(in_flight) == [sum(column) for column in zip(*counts.values(), strict=True)]
    for name in loads:
        in_flight.end(name)
        in_flight.end(name)
        del counts[name]
        assert used(in_flight) == [sum(column) for column in zip((0, 0, 0), *counts.values(), strict=True)]


def used(in_flight: InFlight) -> list[int]:
    return [one["in_flight"] for one in in_flight.describe().values()]


def test_what_only_its_replica_has_told_of_counts_for_all_whom_it_may_be_of() -> None:
    in_flight = made(
        ConcurrencyLimit("tenant", Counted.requests, at_most=9, tenants=("acme",)),
        ConcurrencyLimit("variant", at_most=9, models=("qwen@think",)),
        ConcurrencyLimit("kv", Counted.tokens, at_most=50, models=("qwen",)),
        ConcurrencyLimit("other", at_most=9, models=("tiny",)),
    )
    in_flight.begin("r", Load("qwen", None, 2, 0))
    assert used(in_flight) == [1, 2, 50, 0]
    in_flight.end("r")
    assert used(in_flight) == [0, 0, 0, 0]


def test_nothing_is_admitted_beyond_a_limit_and_all_of_them_hold() -> None:
    in_flight = made(
        ConcurrencyLimit("a", at_most=3, models=("qwen",)), ConcurrencyLimit("b", Counted.tokens, at_most=50)
    )
    assert in_flight.admits(Load("qwen@quick", NOBODY, 3, 50))
    assert not in_flight.admits(Load("qwen@quick", NOBODY, 4, 4))
    assert not in_flight.admits(Load("tiny", NOBODY, 1, 51))
    in_flight.begin("r", Load("tiny", NOBODY, 9, 50))
    assert not in_flight.admits(Load("tiny", NOBODY, 1, 1))
    in_flight.end("r")
    assert in_flight.admits(Load("tiny", NOBODY, 1, 1))


def test_the_queue_hears_of_whom_a_limit_holds_back_and_where() -> None:
    on_qwen, gone = ConcurrencyLimit("a", at_most=3, models=("qwen",)), ConcurrencyLimit("gone", at_most=1)
    in_flight = made(on_qwen)
    in_flight.begin("r", Load("qwen@quick", NOBODY, 1, 1))
    room = in_flight.room()
    assert room.blocked(((on_qwen, 2),)) == 0
    assert room.blocked(((on_qwen, 4),)) == 0b01
    assert room.starts(((on_qwen, 1), (gone, 1))) == [(2, 0b01)]
    assert room.blocked(((gone, 5),)) == 0, "one that does not hold any more holds nobody back"
    assert (room.is_part(((on_qwen, 4),)), room.is_part(((on_qwen, 1),))) == (True, False)
