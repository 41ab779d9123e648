"""How many rows are sent at once, to which model, and what becomes of those that come back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from apportion.deployments.jobs import sending
from apportion.deployments.jobs.row_client import Answered
from apportion.deployments.jobs.rows import refusal
from apportion.deployments.jobs.sending import Sender
from apportion.router.errors import ApportionError, BudgetExceededError, BudgetExhaustedError, OverloadedError
from apportion.router.jobs.backlog import NOWHERE, Backlog


@dataclass
class PlayedOffice:
    """Answers after a while; `error` says why a row is not answered."""

    error: Callable[[int, int], ApportionError | None] = lambda row, column: None
    slots_each: tuple[int, ...] = (2, 3)
    answer_s: float = 0.01
    attempts: int = 3
    others: dict[int, int] = field(default_factory=dict)
    now: Counter[int] = field(default_factory=Counter)
    most: Counter[int] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    kept: dict[int, tuple[int, Answered]] = field(default_factory=dict)
    answered: frozenset[int] = frozenset()  # rows that have a first answer

    def slots(self, column: int) -> int:
        return self.slots_each[column]

    async def ask(self, row: int, column: int) -> Answered:
        self.asked[row] += 1
        self.now[column] += 1
        self.most[column] = max(self.most[column], self.now[column])
        try:
            await asyncio.sleep(self.answer_s)
        finally:
            self.now[column] -= 1
        error = self.error(row, column)
        return Answered(200, {}, "model", 1, None, True) if error is None else refusal(error)

    async def keep(self, row: int, column: int, answered: Answered) -> bool:
        assert row not in self.kept
        self.kept[row] = column, answered
        return False

    def has_answer(self, row: int) -> bool:
        return row in self.answered

    def elsewhere(self, row: int, column: int) -> int:
        return self.others.pop(row, NOWHERE)


def sender(office: PlayedOffice, models: list[int]) -> Sender:
    backlog = Backlog(np.arange(len(models), dtype=np.uint64), 2)
    backlog.add(np.ones(len(models), np.bool_))
    backlog.place(np.array(models))
    return Sender(backlog, 2, office, time.monotonic, 1.0)


async def test_twice_the_slots_of_each_model_are_with_the_router_and_neither_waits_for_the_other() -> None:
    office = PlayedOffice()
    await sender(office, [0] * 20 + [1] * 20).run(asyncio.Event())
    assert dict(office.most) == {0: 4, 1: 6}
    assert set(office.asked.values()) == {1}
    assert [column for _, (column, _) in sorted(office.kept.items())] == [0] * 20 + [1] * 20


async def test_a_full_queue_costs_no_attempt() -> None:
    office = PlayedOffice(attempts=1)
    office.error = lambda row, column: OverloadedError("full", retry_after_s=0.1) if office.asked[row] < 2 else None
    await sender(office, [0, 1]).run(asyncio.Event())
    assert [answered.status for _, answered in office.kept.values()] == [200, 200]


async def test_rows_that_others_have_to_settle_for_wait_and_are_then_answered() -> None:
    held = Counter[str]()

    def short(row: int, column: int) -> ApportionError | None:
        held["asked"] += 1
        return BudgetExhaustedError("held", retry_after_s=0.1) if sum(office.now.values()) > 1 else None

    office = PlayedOffice(short)
    await sender(office, [0] * 10).run(asyncio.Event())
    assert len(office.kept) == 10
    assert all(answered.status == 200 for _, answered in office.kept.values())
    assert held["asked"] < 60  # nobody asks over and over


async def test_a_row_that_cannot_be_paid_goes_to_another_model_or_ends() -> None:
    office = PlayedOffice(lambda row, column: BudgetExceededError("too dear") if column == 0 else None)
    office.others = {0: 1}
    await sender(office, [0, 0, 1]).run(asyncio.Event())
    assert [(office.kept[row][0], office.kept[row][1].status) for row in range(3)] == [(1, 200), (0, 402), (1, 200)]


async def test_when_told_to_stop_it_waits_for_what_runs_and_sends_nothing_more() -> None:
    office, stop = PlayedOffice(answer_s=0.1), asyncio.Event()
    made = sender(office, [0] * 50)
    running = asyncio.create_task(made.run(stop))
    await asyncio.sleep(0.05)
    stop.set()
    await running
    assert len(office.kept) == 4
    assert len(made.backlog) == 46
    assert made.flying == {}


async def test_what_is_cut_off_waits_again() -> None:
    office = PlayedOffice(answer_s=60.0)
    made = sender(office, [0] * 10)
    running = asyncio.create_task(made.run(asyncio.Event()))
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (len(made.backlog), made.flying, office.kept) == (10, {}, {})


async def test_a_row_that_has_an_answer_waits_for_money_only_while_others_may_give_some_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "SHORT_S", 0.02)
    monkeypatch.setattr(sending, "LOOK_S", 0.02)
    office = PlayedOffice(lambda row, column: BudgetExhaustedError("held") if row == 0 else None, answer_s=0.01)
    office.answered = frozenset({0})
    await asyncio.wait_for(sender(office, [0] * 6).run(asyncio.Event()), 5.0)
    assert sorted(office.kept) == [0, 1, 2, 3, 4, 5]
    assert isinstance(office.kept[0][1].error, BudgetExhaustedError)
    assert office.asked[0] >= sending.SHORT_TRIES
