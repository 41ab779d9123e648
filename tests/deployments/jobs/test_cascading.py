"""Cascades in a job: first answers that are held, kept or asked on, with the real Router and ledger in this process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from apportion.deployments.jobs import desk, lease, runner, sending, steering
from apportion.router.batch.events import AttemptEnded, Event
from apportion.router.batch.prompt import Prompt
from apportion.router.batch.reservations import unsettled
from apportion.router.jobs.records import Job
from apportion.router.jobs.states import Status
from apportion.router.unpriced import Unpriced
from tests.deployments.jobs.place import Answer, Place, chats, place_at
from tests.deployments.local_router import forecast_of
from tests.deployments.proofs import proved

ROWS = 20
WREN_NANO, HERON_NANO = 20_000, 160_000  # what a row costs; set aside are half as much again
ENOUGH_NANO = WREN_NANO + HERON_NANO * 6 // 10  # that a row which is asked on in half of all cases is expected to cost
SUCCESS = (0.5, 0.0, 0.0, 0.8)


class EqualRows:
    """Half of wren's answers are expected to be right, and four fifths of heron's."""

    async def predict(self, prompts: Sequence[Prompt], models: tuple[str, ...], bulk: bool = False) -> Unpriced:
        expected = forecast_of(prompts, models)
        expected.table[0] = SUCCESS
        return expected


class SlowHeron:
    """Lets wren answer, and heron begin; who is asked on has no answer before `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0

    async def __call__(self, model: str, prompt: str) -> None:
        if model == "heron":
            self.waiting += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.go.wait(), 15.0)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "PERIOD_S", 0.1)
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(runner, "LEASE_S", 2.0)
    monkeypatch.setattr(runner, "LOOK_S", 0.1)
    monkeypatch.setattr(sending, "SHORT_S", 0.05)
    monkeypatch.setattr(steering, "LOOK_S", 0.2)
    monkeypatch.setattr(unsettled, "WORD_S", 0.2)


def even_ones_are_sure(model: str, prompt: str) -> bool:
    return int(prompt.split()[1]) % 2 == 0


@asynccontextmanager
async def cascading(
    folder: Path, before: Answer | None = None, *, cascade: bool = True, **bulk: Any
) -> AsyncIterator[Place]:
    """Rows may go to wren and, where it is not sure enough, to heron."""
    proved(folder / "artefact")
    sections = {"routing": {"cascade": cascade}, "predictor": {"artefact": str(folder / "artefact")}}
    async with place_at(folder / "bulk", before, sections=sections, predictor=EqualRows(), **bulk) as place:
        place.engines.sure = even_ones_are_sure
        yield place


def submitted(place: Place, count: int = ROWS, window_s: float = 3600.0, **routing: Any) -> Job:
    """A job with money for a cascade for each row, and not for heron alone."""
    usual = {"budget_usd": count * ENOUGH_NANO / 1e9, "models": ["wren", "heron"]}
    return place.submit(chats(count), window_s, **(usual | routing))


def answered_by(place: Place, job: Job) -> list[str]:
    """Of each row, the model that gave its answer; there are no errors."""
    output, errors = place.lines(job)
    assert errors == []
    assert [line["custom_id"] for line in output] == [f"row-{row}" for row in range(place.job(job).total)]
    said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
    assert [text.split(" by ")[0] for text in said] == [f"prompt {row}" for row in range(len(said))]
    return [text.split(" by ")[1] for text in said]


def through(job: Job) -> bool:
    """Whether all rows have a first answer."""
    return bool(job.told.get("cascades", {}).get("first_answers") == ROWS)


async def exact_nano(place: Place, job: Job) -> int:
    """What the job has cost, as engines, ledger and its own record say; nothing is set aside any more."""
    spent_nano, reserved_nano = await place.money(job)
    assert reserved_nano == 0
    assert spent_nano == place.engines.cost_nano == place.job(job).spent_nano
    return spent_nano


async def test_sure_answers_are_kept_and_others_are_asked_on(tmp_path: Path) -> None:
    async with cascading(tmp_path) as place:
        told: list[Event] = []
        place.router._room.events.subscribe(told.append)
        place.start()
        job = submitted(place)
        ended = await place.ended(job)
        by = answered_by(place, job)
        assert await exact_nano(place, job) == ROWS * WREN_NANO + ROWS // 2 * HERON_NANO

    assert (ended.status, ended.completed, ended.failed) == (Status.completed, ROWS, 0)
    assert by == ["wren", "heron"] * (ROWS // 2)
    assert ended.told["by_model"] == {"wren": ROWS // 2, "wren>heron": ROWS // 2}
    assert ended.told["cascades"] == {"first_answers": ROWS, "asked_on": ROWS // 2}
    assert ended.tokens.output == 10 * place.engines.asked.total() == 15 * ROWS, "what was thrown away counts"

    stages = [event for event in told if isinstance(event, AttemptEnded)]
    assert {(event.model, event.row_second) for event in stages} == {("wren", "heron"), ("heron", "heron")}
    assert all(event.of_cascade for event in stages)


async def test_rows_have_one_answer_where_cascades_are_not_wanted(tmp_path: Path) -> None:
    async with cascading(tmp_path) as place:
        place.start()
        jobs = [submitted(place, 5, cascade=False), submitted(place, 5, models=["wren"])]
        jobs.append(place.submit([body | {"logprobs": True} for body in chats(5)], budget_usd=1e-3))
        ended = [await place.ended(job) for job in jobs]
    assert [one.completed for one in ended] == [5, 5, 5]
    assert all("cascades" not in one.told for one in ended)
    assert place.engines.asked.total() == 15


async def test_a_service_without_cascades_plans_none(tmp_path: Path) -> None:
    async with cascading(tmp_path, cascade=False) as place:
        place.start()
        ended = await place.ended(submitted(place, 5))
    assert "cascades" not in ended.told
    assert place.engines.asked.total() == 5


async def test_without_signals_what_was_predicted_decides(tmp_path: Path) -> None:
    async with cascading(tmp_path) as place:
        place.engines.sure = lambda model, prompt: None
        place.start()
        job = submitted(place)
        ended = await place.ended(job)
        by = answered_by(place, job)
        spent_nano = await exact_nano(place, job)
    # All answers are as good as was expected, .5 against .8: as many are asked on as there is money for. Money for
    # the last ones has to be there for their worst case.
    most = (ENOUGH_NANO - WREN_NANO) * ROWS // HERON_NANO
    assert most - 2 <= by.count("heron") == ended.told["cascades"]["asked_on"] <= most
    assert spent_nano == ROWS * WREN_NANO + by.count("heron") * HERON_NANO <= ROWS * ENOUGH_NANO


async def test_a_second_model_that_fails_or_refuses_leaves_the_first_answer(tmp_path: Path) -> None:
    async def broken(model: str, prompt: str) -> Response | None:
        if model != "heron":
            return None
        refuses = int(prompt.split()[1]) % 4 == 1
        return JSONResponse({"error": {"message": "no"}}, status_code=400 if refuses else 500)

    async with cascading(tmp_path, broken, attempts=1) as place:
        place.start()
        job = submitted(place)
        ended = await place.ended(job)
        assert answered_by(place, job) == ["wren"] * ROWS
    assert (ended.status, ended.completed) == (Status.completed, ROWS)
    assert ended.told["by_model"] == {"wren": ROWS}
    assert ended.told["cascades"] == {"first_answers": ROWS, "asked_on": 0}
    assert max(place.engines.asked.values()) == 2


@pytest.mark.parametrize("end", [Status.cancelled, Status.completed])
async def test_a_job_that_is_cut_short_between_the_stages_has_its_first_answers(tmp_path: Path, end: Status) -> None:
    heron = SlowHeron()
    async with cascading(tmp_path, heron, slots=8) as place:
        place.start()
        job = submitted(place, window_s=3600.0 if end is Status.cancelled else 7.0, budget_usd=1.0)
        await place.until(job, lambda now: heron.waiting > 0 and through(now))
        if end is Status.cancelled:
            place.store.cancel(job.owner, job.id, 0.0)
        await asyncio.sleep(1.0 if end is Status.cancelled else job.expires_at + 1.0 - time.time())
        heron.go.set()
        ended = await place.ended(job)
        by = answered_by(place, job)
        await exact_nano(place, job)
    # Nothing is missing, so a job whose window has ended is complete.
    assert (ended.status, ended.completed) == (end, ROWS)
    assert by.count("heron") > 0, "what was under way counts"
    if end is Status.cancelled:  # a job that is late gets slots for all of them at once
        assert by.count("heron") < ROWS // 2, "nothing was sent any more"


async def test_who_takes_a_job_over_between_the_stages_asks_nothing_twice(tmp_path: Path) -> None:
    heron = SlowHeron()
    async with cascading(tmp_path, heron) as place:
        lost = place.start()
        job = submitted(place, budget_usd=1.0)
        await place.until(job, lambda now: heron.waiting == ROWS // 2 and through(now))
        lost._store.save = None  # type: ignore[assignment, method-assign]  # its last word is never written
        for task in (lost.runner._working, *lost.runner._runs.values()):
            task.cancel()
        place.runners.remove(lost)
        place.engines.before = None
        heron.go.set()
        place.start()
        ended = await place.ended(job, 30.0)
        by, cascades = answered_by(place, job), ended.told["cascades"]
        await lost.close()
    assert (ended.status, cascades["first_answers"]) == (Status.completed, ROWS)
    assert (cascades["asked_on"], by) == (ROWS // 2, ["wren", "heron"] * (ROWS // 2))
    assert [place.engines.asked[f"prompt {row}"] for row in range(0, ROWS, 2)] == [1] * (ROWS // 2)
    assert max(place.engines.asked.values()) == 3, "wren once, and heron before and after the kill"
