"""What is free of every GPU, against counting it by hand."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from apportion.allocation.replica import SHARE_UNITS
from apportion.allocation.room import FreeGpus

SHARES = st.sampled_from([1000, 3333, 5000, SHARE_UNITS])
TAKEN = st.lists(st.tuples(st.integers(0, 3), SHARES), max_size=8)


@given(TAKEN, SHARES, st.integers(1, 4))
def test_the_fullest_gpus_with_room_are_found(taken: list[tuple[int, int]], units: int, number: int) -> None:
    room, free = FreeGpus({"a": 4}), [SHARE_UNITS] * 4
    for gpu, share in taken:
        if free[gpu] >= share:
            free[gpu] -= share
            room.take("a", [gpu], share)
    able = [gpus for gpus in combinations(range(4), number) if all(free[gpu] >= units for gpu in gpus)]
    spot = room.fullest("a", units, number)
    assert (spot is None) == (not able)
    if spot is not None:
        assert spot.gpus in able
        assert spot.left == sum(free[gpu] for gpu in spot.gpus)
        assert spot.left == min(sum(free[gpu] for gpu in gpus) for gpus in able)


def test_what_is_given_out_too_often_is_seen() -> None:
    room = FreeGpus({"a": 2})
    for _ in range(3):
        room.take("a", [1], 3333)
    assert room.overfull("a", [0, 1]) is None
    room.take("a", [1], 3333)
    assert room.overfull("a", [0, 1]) == 1
    assert round(room.used_share("a", 1), 4) == 1.3332
    room.give_back("a", [1], 3333)
    assert room.overfull("a", [1]) is None
