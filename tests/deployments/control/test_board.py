"""What the console is told of batches and requests, from the events of a real router."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from apportion.deployments.control.board import BATCHES, SECONDS, Board
from apportion.router.batch.events import EndedUnserved
from apportion.router.batch.messages import Course, Done, RouteItem
from tests.deployments.local_router import LocalService, configuration
from tests.router.batch.plain_room import Clock

USD = 1e-4


async def test_batches_are_told_as_they_were_planned_and_answers_as_they_ended() -> None:
    service = LocalService(configuration(None, routing={"budget_usd_per_request": USD}))
    await service.announce()
    answered: Counter[str] = Counter()
    for number in range(3):
        decision = await service.plan(RouteItem(f"r{number}", max_tokens=10))
        service.link.finish(Done(decision.id, 1e-6, course=Course(0, 0.0, 0.25, 0.5, 200)))
        answered[decision.model] += 1
    state = await service.idle_state()
    told = await service.router.console()
    await service.close()

    json.dumps(told, allow_nan=False)
    assert [batch["id"] for batch in told["batches"]] == [1, 2, 3]
    batch = told["batches"][-1]
    assert (batch["size"], batch["rung"], batch["strategy"]) == (1, "mip", "mip")
    assert batch["cap_usd"] == decision.batch.cap_usd >= USD
    assert batch["placed"][decision.model] == sum(batch["placed"].values()) == 1
    assert batch["cost_usd"] == decision.batch.planned_cost_usd
    assert {name: one["answered"] for name, one in told["answers"].items()} == answered
    assert {one["first_byte_s"] for one in told["answers"].values()} == {0.25}
    assert sum(second["answered"] for second in told["flow"]) == 3
    assert sum(second["cost_usd"] for second in told["flow"]) == state["spent_usd"]
    assert "url" not in str(told["replicas"]), "where engines listen is for operators"


async def test_who_waits_is_told_by_the_model_that_is_asked_for() -> None:
    service = LocalService(configuration(None, slots=1))
    await service.announce()
    first = await service.plan(RouteItem("first", model="wren", max_tokens=10))
    items = [RouteItem(f"r{number}", model="wren", max_tokens=10) for number in range(2)]
    tasks = [asyncio.create_task(service.plan(item)) for item in items]
    async with asyncio.timeout(5):
        while (told := await service.router.console())["waiting_for"] != {"wren": 2}:
            await asyncio.sleep(0.01)
    service.link.finish(Done(first.id, 0.0))
    for task in tasks:
        service.link.finish(Done((await task).id, 0.0))
    await service.close()
    assert told["models"]["wren"]["free_slots"] == 0


async def test_a_service_without_a_console_keeps_nothing_for_it() -> None:
    service = LocalService(configuration(None, ingress={"console": False}))
    await service.announce()
    await service.run(RouteItem("r", max_tokens=10))
    told = await service.router.console()
    await service.close()
    assert (told["batches"], told["answers"], told["flow"]) == ([], {}, [])


def test_little_is_kept_however_much_happens() -> None:
    clock = Clock()
    board = Board(clock)
    for _ in range(3 * SECONDS):
        board.hear(EndedUnserved({"queue_full": 2}))
        clock.now_s += 1
    told = board.describe()
    assert len(told["flow"]) == SECONDS
    assert told["unserved"] == {"queue_full": {"count": 6 * SECONDS, "last_s": clock.now_s - 1}}


async def test_the_last_batches_are_kept() -> None:
    service = LocalService(configuration(None))
    await service.announce()
    for number in range(BATCHES + 2):
        await service.run(RouteItem(f"r{number}", max_tokens=1))
    told = await service.router.console()
    await service.close()
    assert [batch["id"] for batch in told["batches"]] == list(range(3, BATCHES + 3))
