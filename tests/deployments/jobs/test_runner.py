"""Jobs from their lease to their files, with the real Router and ledger in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from apportion.deployments.jobs import desk, lease, runner, steering
from apportion.router.batch.reservations import unsettled
from apportion.router.jobs.states import Status
from tests.deployments.jobs.place import Place, chat, chats, place_at
from tests.deployments.local_router import keys_file


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "PERIOD_S", 0.1)
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(runner, "LEASE_S", 2.0)
    monkeypatch.setattr(runner, "LOOK_S", 0.1)
    monkeypatch.setattr(steering, "LOOK_S", 0.2)
    monkeypatch.setattr(unsettled, "WORD_S", 0.2)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_at(tmp_path) as made:
        yield made


async def test_a_job_is_answered_in_the_order_of_its_lines(place: Place) -> None:
    place.start()
    job = place.submit(chats(50))
    ended = await place.ended(job)
    output, errors = place.lines(job)
    assert (ended.status, ended.total, ended.completed, ended.failed) == (Status.completed, 50, 50, 0)
    assert [line["custom_id"] for line in output] == [f"row-{number}" for number in range(50)]
    said = [line["response"]["body"]["choices"][0]["message"]["content"] for line in output]
    assert [text.split(" by ")[0] for text in said] == [f"prompt {number}" for number in range(50)]
    assert errors == []
    assert sum(ended.told["by_model"].values()) == 50
    assert place.engines.asked.total() == 50
    assert ended.tokens.output == 500
    assert (ended.spent_nano, await place.money(job)) == (place.engines.cost_nano, (place.engines.cost_nano, 0))
    assert place.blobs.list("jobs") == []


async def test_bulk_leaves_the_reserve_to_others(place: Place) -> None:
    async def slow(model: str, prompt: str) -> None:
        await asyncio.sleep(0.05)

    place.engines.before = slow
    place.start()
    await place.ended(place.submit(chats(60, "wren")))
    assert place.engines.most["wren"] == 10  # of sixteen slots six are kept free


async def test_a_file_with_mistakes_fails_before_anything_runs(place: Place) -> None:
    place.start()
    text = '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\nno json\n'
    ended = await place.ended(place.submit_text(text))
    assert ended.status is Status.failed
    assert [(error["code"], error["line"]) for error in ended.errors] == [("invalid_json_line", 2)]
    assert place.engines.asked.total() == 0


async def test_a_row_that_cannot_be_answered_fails_alone(place: Place) -> None:
    async def refuse(model: str, prompt: str) -> Response | None:
        error = {"error": {"message": "too rude"}}
        return JSONResponse(error, status_code=400) if prompt == "prompt 3" else None

    place.engines.before = refuse
    place.start()
    job = place.submit([*chats(5), {"messages": "no list"}, chat("x" * 40, max_tokens=500)])
    ended = await place.ended(job)
    output, errors = place.lines(job)
    assert (ended.completed, ended.failed) == (5, 2)
    assert [line["custom_id"] for line in output] == ["row-0", "row-1", "row-2", "row-4", "row-6"]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("row-3", 400), ("row-5", 400)]
    assert errors[0]["response"]["body"]["error"]["message"] == "too rude"
    assert place.engines.asked["prompt 3"] == 1


async def test_a_row_whose_engine_fails_is_tried_again_and_no_more_often_than_is_set(tmp_path: Path) -> None:
    async def fail(model: str, prompt: str) -> Response | None:
        return JSONResponse({}, status_code=500) if prompt == "prompt 2" else None

    async with place_at(tmp_path, fail, attempts=1) as place:
        place.start()
        job = place.submit(chats(4, "lark"))
        await place.ended(job)
        output, errors = place.lines(job)
        assert len(output) == 3
        assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("row-2", 503)]


async def test_a_budget_that_does_not_suffice_fails_the_job_with_what_would(place: Place) -> None:
    place.start()
    job = place.submit(chats(20), budget_usd=1e-4)
    ended = await place.ended(job)
    assert ended.status is Status.failed
    [error] = ended.errors
    assert error["code"] == "budget_exceeded"
    assert "raise the budget to 0.0004" in error["message"]
    assert place.engines.asked.total() == 0


async def test_a_job_spends_no_more_than_its_budget_and_as_much_as_it_may(place: Place) -> None:
    place.start()
    # A row costs 20e-6 USD on wren, 160e-6 on heron, and is reserved at 30e-6 and 240e-6.
    job = place.submit(chats(40), budget_usd=3e-3)
    ended = await place.ended(job)
    spent_nano, reserved_nano = await place.money(job)
    assert (ended.status, ended.completed, reserved_nano) == (Status.completed, 40, 0)
    assert spent_nano == place.engines.cost_nano == ended.spent_nano
    assert 2_500_000 <= spent_nano <= 3_000_000
    assert len(ended.told["by_model"]) > 1


async def test_best_effort_answers_as_many_rows_as_the_budget_has_room_for(place: Place) -> None:
    place.start()
    job = place.submit(chats(20), budget_usd=1e-4, best_effort=True)
    ended = await place.ended(job)
    output, errors = place.lines(job)
    assert ended.status is Status.completed
    assert 3 <= len(output) <= 5
    assert len(output) + len(errors) == 20
    assert {line["error"]["code"] for line in errors if line["error"]} <= {"budget_exceeded"}
    assert (await place.money(job))[0] <= 100_000


async def test_what_is_done_when_a_job_is_cancelled_stays(place: Place) -> None:
    async def slow(model: str, prompt: str) -> None:
        await asyncio.sleep(0.2)

    place.engines.before = slow
    place.start()
    job = place.submit(chats(400, "wren"))
    await place.until(job, lambda now: now.completed > 0)
    place.store.cancel(job.owner, job.id, 0.0)
    ended = await place.ended(job)
    output, errors = place.lines(job)
    assert ended.status is Status.cancelled
    assert 0 < len(output) < 400
    assert len(output) + len(errors) == 400
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert (await place.money(job)) == (place.engines.cost_nano, 0)


async def test_what_is_not_done_in_its_window_expires(place: Place) -> None:
    async def slow(model: str, prompt: str) -> None:
        await asyncio.sleep(0.3)

    place.engines.before = slow
    place.start()
    job = place.submit(chats(400, "wren"), window_s=4.0)
    ended = await place.ended(job)
    output, errors = place.lines(job)
    assert ended.status is Status.expired
    assert ended.stamps["expired_at"] <= ended.expires_at + 4
    assert len(output) + len(errors) == 400
    assert 0 < len(output) < 400
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


async def test_rows_of_a_revoked_key_are_refused(tmp_path: Path) -> None:
    keys = keys_file(tmp_path / "keys.yaml", {"name": "other"})
    async with place_at(tmp_path, keys=keys) as place:
        place.start()
        job = place.submit(chats(3))
        ended = await place.ended(job)
        assert (ended.completed, ended.failed, place.engines.asked.total()) == (0, 3, 0)
        _, errors = place.lines(job)
        assert {line["response"]["status_code"] for line in errors} == {401}


async def test_rows_go_only_to_models_that_the_key_had_when_the_job_was_made(place: Place) -> None:
    place.start()
    job = place.submit([*chats(10), chat("dear", "heron")], may={"models": ["wren", "finch"]})
    ended = await place.ended(job)
    assert set(ended.told["by_model"]) <= {"wren", "finch"}
    assert ended.errors == [] or ended.status is Status.failed


async def test_the_next_runner_goes_on_where_the_last_one_was_lost(place: Place) -> None:
    async def slow(model: str, prompt: str) -> None:
        await asyncio.sleep(0.1)

    place.engines.before = slow
    lost = place.start()
    job = place.submit(chats(60, "wren"))
    await place.until(job, lambda now: now.completed >= 10)
    before = place.job(job)
    # Its last word is never written, as of one that is killed.
    lost._store.save = None  # type: ignore[assignment, method-assign]
    for task in (lost.runner._working, *lost.runner._runs.values()):
        task.cancel()
    place.runners.remove(lost)
    place.start()
    place.engines.before = None
    ended = await place.ended(job, 30.0)
    output, _ = place.lines(job)
    assert (ended.status, ended.epoch) == (Status.completed, before.epoch + 1)
    assert [line["custom_id"] for line in output] == [f"row-{number}" for number in range(60)]
    again = sum(count - 1 for count in place.engines.asked.values())
    assert again <= 24  # what was on its way
    await lost.close()


async def test_a_job_whose_rows_have_all_ended_before_its_plan_is_finished_by_the_next_runner(place: Place) -> None:
    """As where a runner is killed between its last refusal and its plan."""
    job = place.submit([{"messages": "no list"}, {"messages": "none"}])
    lost = place.start()
    stopped = asyncio.Event()
    lost.runner._shop.desk.known = stopped.wait  # type: ignore[method-assign, assignment]  # it never comes to a plan
    await place.until(job, lambda now: now.failed == 2)
    await lost.close()
    place.runners.remove(lost)
    assert place.job(job).status is Status.validating
    place.start()
    ended = await place.ended(job)
    assert (ended.status, ended.failed) == (Status.completed, 2)
