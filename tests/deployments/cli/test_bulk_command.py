import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from apportion.deployments.cli import app, bulk_client
from apportion.router.budget import Account
from tests.deployments.ingress.front import Front, ingress_before
from tests.deployments.ingress.played_jobs import Place, engine, line, sections


class Command:
    """Runs `apportion bulk` against an ingress in this process."""

    def __init__(self, front: Front, place: Place) -> None:
        self.front, self.place = front, place

    async def __call__(self, *words: object, key: str = "me", **variables: str) -> Any:
        options = ["--url", f"{self.front.server.url}/v1"]
        environment = {"OPENAI_API_KEY": key, "COLUMNS": "200"} | variables
        return await asyncio.to_thread(CliRunner(env=environment).invoke, app, ["bulk", *map(str, words), *options])

    async def work(self) -> None:
        """Ends a batch as soon as there is one."""
        while not self.place.store.jobs(Account("me"), limit=1)[0]:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self.place.work)


@pytest.fixture
async def bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Command]:
    monkeypatch.setattr(bulk_client, "FIRST_LOOK_S", 0.02)
    place = Place(tmp_path / "bulk")
    async with ingress_before(engine, **sections(place)) as front:
        yield Command(front, place)
    place.store.close()


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b"\n".join([b"", line("a"), line("b"), line("c", trouble=1)]))
    return file


async def test_a_file_is_sent_waited_for_and_fetched(bulk: Command, requests: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    work = asyncio.create_task(bulk.work())

    done = await bulk(
        "submit",
        requests,
        "--budget-usd",
        12,
        "--window",
        "90m",
        "--models",
        "small",
        "--no-cascade",
        "--wait",
        "--out",
        out,
    )
    await work

    assert done.exit_code == 1, done.output  # one request was refused
    assert "completed; 2 of 3 answered, 1 failed; 4.5e-06 of 0.5 USD planned" in done.stdout
    assert [json.loads(text)["custom_id"] for text in out.read_text().splitlines()] == ["a", "b"]
    assert json.loads((tmp_path / "answers.errors.jsonl").read_text())["custom_id"] == "c"
    (job,), _ = bulk.place.store.jobs(Account("me"), limit=5)
    assert (job.routing, job.completion_window) == ({"budget_usd": 12.0, "models": ["small"], "cascade": False}, "90m")
    assert job.expires_at == job.created_at + 90 * 60


async def test_batches_are_listed_shown_and_cancelled(bulk: Command, requests: Path, tmp_path: Path) -> None:
    sent = await bulk("submit", requests, "--json", "-")
    assert sent.exit_code == 0, sent.output
    batch = json.loads(sent.stdout)["id"]

    assert batch in (await bulk("list", COLUMNS="60")).stdout
    assert f"{batch}: validating; 0 of 0 answered" in (await bulk("show", batch)).stdout
    assert "cancelling" in (await bulk("cancel", batch)).stdout
    early = await bulk("fetch", batch, "--out", tmp_path / "x.jsonl")
    assert (early.exit_code, "no file of answers" in early.stderr) == (0, True)
    for words in (("show", batch), ("fetch", batch, "--out", tmp_path / "x.jsonl"), ("cancel", batch)):
        foreign = await bulk(*words, key="you")
        assert (foreign.exit_code, "is yours" in foreign.stderr) == (2, True)


async def test_what_was_wrong_is_shown_with_its_lines(bulk: Command, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_bytes(b"\n".join([line("a"), *[line("a")] * 12]))
    work = asyncio.create_task(bulk.work())

    done = await bulk("submit", file, "--wait")
    await work

    assert done.exit_code == 1
    assert "line 2: custom_id: custom_id 'a' stands in an earlier line too" in done.stdout
    assert "and 2 more" in done.stdout


async def test_mistakes_are_told_before_anything_is_sent(bulk: Command, requests: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("hello\n")
    for words, said in (
        (("submit", requests, "--out", "x"), "--wait"),
        (("submit", tmp_path / "texts.txt"), "first line is no request"),
        (("submit", requests, "--window", "1d"), "completion_window"),
        (("submit", requests, "--models", "owl"), "owl"),
    ):
        refused = await bulk(*words)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.output
    assert bulk.place.store.jobs(Account("me"), limit=1) == ([], False)


async def test_a_service_that_is_not_there_is_named(requests: Path) -> None:
    words = ["bulk", "submit", str(requests), "--url", "http://127.0.0.1:9/v1"]
    refused = await asyncio.to_thread(CliRunner().invoke, app, words)

    assert refused.exit_code == 2
    assert "start the service, or correct --url" in refused.stderr
    assert "http" in (await asyncio.to_thread(CliRunner().invoke, app, ["bulk", "list", "--url", "x"])).stderr


async def test_a_service_that_restarts_is_waited_for(bulk: Command, requests: Path) -> None:
    client = bulk_client.BulkClient(f"{bulk.front.server.url}/v1", "me", sleep=lambda _: None)
    file_id = await asyncio.to_thread(client.upload, requests)
    body = {"endpoint": "/v1/chat/completions", "completion_window": "1h", "input_file_id": file_id}
    looks = client.looks(await asyncio.to_thread(client.create, body))
    assert next(looks)["status"] == "validating"
    desk = bulk.front.ingress._parts.desk
    opened, config = desk._opened, desk._bulk
    desk._opened, desk._bulk = None, config.model_copy(update={"storage": "/proc/nowhere"})

    look = asyncio.create_task(asyncio.to_thread(next, looks))
    await asyncio.sleep(0.2)
    assert not look.done()
    desk._opened, desk._bulk = opened, config

    assert (await look)["status"] == "validating"
    client.close()
