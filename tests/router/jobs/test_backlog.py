from __future__ import annotations

import numpy as np
import pytest

from apportion.router.errors import (
    ApportionError,
    BudgetExceededError,
    BudgetExhaustedError,
    DeadlineError,
    InvalidRequestError,
    LedgerError,
    OverloadedError,
    UnavailableError,
)
from apportion.router.jobs.again import LONGEST_S, Tries, What, judged, pause_s
from apportion.router.jobs.backlog import NOWHERE, Backlog


def backlog(beginnings: list[int], models: list[int]) -> Backlog:
    made = Backlog(np.array(beginnings, np.uint64), 2)
    made.add(np.ones(len(beginnings), np.bool_))
    made.place(np.array(models))
    return made


def taken(made: Backlog, column: int, now_s: float = 0.0) -> list[int]:
    rows = []
    while (row := made.take(column, now_s)) is not None:
        rows.append(row)
    return rows


def test_rows_that_begin_alike_follow_each_other_on_their_model() -> None:
    made = backlog([7, 3, 7, 3, 7, 5], [0, 0, 0, 0, 1, 1])
    assert made.counts() == [4, 2]
    assert taken(made, 0) == [1, 3, 0, 2]
    assert taken(made, 1) == [5, 4]
    assert len(made) == 0


def test_what_failed_comes_again_when_it_is_due_and_before_the_others() -> None:
    made = backlog([1, 2, 3], [0, 0, 0])
    assert made.take(0, 0.0) == 0
    made.move(0, 0, due_s=5.0)
    assert made.take(0, 4.9) == 1
    assert made.take(0, 5.0) == 0
    assert made.take(0, 5.0) == 2


def test_a_new_plan_moves_what_waits_and_nothing_else() -> None:
    made = backlog([1, 2, 3, 4], [0, 0, 0, 0])
    assert made.take(0, 0.0) == 0
    made.move(1, 0, due_s=9.0)
    made.place(np.array([1, 1, 0, NOWHERE]))
    assert made.waiting.tolist() == [False, True, True, True]
    assert made.models.tolist() == [NOWHERE, 1, 0, NOWHERE]
    assert (taken(made, 0), taken(made, 1, 8.0), taken(made, 1, 9.0)) == ([2], [], [1])
    assert made.unplaced.tolist() == [3]
    made.drop(3)
    assert len(made) == 0


@pytest.mark.parametrize(
    ("error", "attempted", "what"),
    [
        (InvalidRequestError("x"), True, What.ends),
        (OverloadedError("x"), False, What.again),
        (LedgerError("x"), False, What.again),
        (UnavailableError("x"), False, What.again),
        (UnavailableError("x"), True, What.failed),
        (DeadlineError("x"), False, What.again),
        (DeadlineError("x"), True, What.failed),
        (ApportionError("x"), False, What.failed),
        (BudgetExhaustedError("x"), False, What.short),
        (BudgetExceededError("x"), False, What.unaffordable),
    ],
)
def test_only_what_was_tried_costs_an_attempt(error: ApportionError, attempted: bool, what: What) -> None:
    tries = Tries()
    assert judged(error, attempted=attempted, tries=tries) is what
    assert tries.attempts == (what is What.failed)


def test_a_row_that_engines_were_lost_with_has_only_so_many_tries_however_they_end() -> None:
    tries = Tries(attempts=1)
    assert judged(UnavailableError("two engines failed"), attempted=False, tries=tries) is What.failed


def test_pauses_double_up_to_a_minute_or_are_as_long_as_is_said() -> None:
    error = UnavailableError("x")
    assert [pause_s(Tries(attempts=n), error) for n in (1, 2, 3, 4, 20)] == [1, 2, 4, 8, LONGEST_S]
    assert pause_s(Tries(attempts=1), UnavailableError("x", retry_after_s=30.0)) == 30
    assert pause_s(Tries(attempts=1), UnavailableError("x", retry_after_s=3_000.0)) == LONGEST_S
