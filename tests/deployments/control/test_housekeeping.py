"""The router's housekeeping: what is late is told to Serve, unless somebody else is late."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from apportion.deployments.control import housekeeping as module
from apportion.deployments.control.housekeeping import Housekeeping
from apportion.router.errors import UnavailableError


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD_S", 0.01)
    monkeypatch.setattr(module, "LATE_S", 0.1)


async def never() -> None:
    await asyncio.Event().wait()


async def test_a_step_that_hangs_fails_the_health_check() -> None:
    housekeeping = Housekeeping({"hangs": never}, {})
    housekeeping.check()  # nothing has started
    housekeeping.start()
    housekeeping.check()
    await asyncio.sleep(0.2)
    with pytest.raises(UnavailableError, match="has not been done"):
        housekeeping.check()
    housekeeping.stop()


async def test_a_database_that_hangs_holds_up_nothing_and_restarts_nobody() -> None:
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        rounds += 1

    housekeeping = Housekeeping({"counts": count}, {"ledger": never})
    housekeeping.start()
    await asyncio.sleep(0.3)
    housekeeping.check()
    assert rounds > 5
    housekeeping.stop()


async def test_a_step_that_fails_is_done_again() -> None:
    calls: list[str] = []

    async def fail() -> None:
        calls.append("fails")
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    async def work() -> None:
        calls.append("works")

    housekeeping = Housekeeping({"fails": fail, "works": work}, {"waits": fail})
    housekeeping.start()
    await asyncio.sleep(0.15)
    housekeeping.check()
    assert calls.count("works") > 3
    housekeeping.stop()


async def test_rounds_that_have_ended_fail_the_health_check_and_start_again() -> None:
    housekeeping = Housekeeping({}, {"waits": never})
    housekeeping.start()
    housekeeping.stop()
    await asyncio.sleep(0.05)
    with pytest.raises(UnavailableError):
        housekeeping.check()
    housekeeping.start()
    await asyncio.sleep(0.05)
    housekeeping.check()
    housekeeping.stop()


async def test_steps_belong_to_no_single_caller() -> None:
    caller: ContextVar[str] = ContextVar("caller", default="nobody")
    seen: set[str] = set()

    async def step() -> None:
        seen.add(caller.get())

    housekeeping = Housekeeping({"a": step}, {"b": step})
    caller.set("who came first")
    housekeeping.start()
    await asyncio.sleep(0.1)
    housekeeping.stop()
    assert seen == {"nobody"}
