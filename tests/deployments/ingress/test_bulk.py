"""Files and batches by the official client, with a worker that is played."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from apportion.deployments.ingress.bulk import desk, upload
from apportion.router.budget import Account
from apportion.router.jobs.records import path_of_file
from apportion.router.jobs.states import Status
from tests.deployments.ingress.front import Front, answer_of, ingress_before
from tests.deployments.ingress.played_jobs import CHAT, Place, engine, line, sections


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path / "bulk")
    yield opened
    opened.store.close()


@pytest.fixture
async def front(place: Place) -> AsyncIterator[Front]:
    async with ingress_before(engine, **sections(place)) as found:
        yield found


@pytest.fixture
async def me(front: Front) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(front, "me") as found:
        yield found


def client_of(front: Front, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{front.server.url}/v1", api_key=key, max_retries=0)


def plain_client(front: Front) -> httpx.AsyncClient:
    return httpx.AsyncClient(headers={"authorization": "Bearer me"}, base_url=front.server.url)


async def uploaded(client: AsyncOpenAI, *lines: bytes, **options: Any) -> str:
    content = b"\n".join(lines or (line("a"), line("b")))
    return (await client.files.create(file=("requests.jsonl", content), purpose="batch", **options)).id


async def created(client: AsyncOpenAI, file_id: str, **options: Any) -> Any:
    return await client.batches.create(
        input_file_id=file_id, endpoint=CHAT, completion_window=options.pop("completion_window", "24h"), **options
    )


async def test_a_batch_from_its_upload_to_its_answers(place: Place, me: AsyncOpenAI) -> None:
    before = int(time.time())
    content = b"\n".join([line("a"), line("b", trouble=1), line("c")])
    file = await me.files.create(file=("my requests.jsonl", content), purpose="batch")
    assert (file.object, file.bytes, file.filename, file.purpose) == (
        "file",
        len(content),
        "my requests.jsonl",
        "batch",
    )
    assert (file.status, file.expires_at) == ("processed", file.created_at + 30 * 86_400)
    assert await me.files.retrieve(file.id) == file
    assert (await me.files.content(file.id)).content == content

    batch = await created(
        me, file.id, metadata={"for": "tests"}, extra_body={"routing": {"budget_usd": 12, "models": ["small"]}}
    )
    assert (batch.object, batch.status, batch.endpoint, batch.input_file_id) == ("batch", "validating", CHAT, file.id)
    assert before <= batch.created_at <= time.time()
    assert batch.expires_at == batch.created_at + 86_400
    assert batch.metadata == {"for": "tests"}
    assert await me.batches.retrieve(batch.id) == batch

    place.work()

    done = await me.batches.retrieve(batch.id)
    assert (done.status, done.errors) == ("completed", None)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert dict(done.request_counts) == {"total": 3, "completed": 2, "failed": 1}
    assert done.usage.total_tokens == 15
    told = done.to_dict()["apportion"]
    assert told == {
        "planned_usd": 0.5,
        "spent_usd": pytest.approx(4.5e-6),
        "routing": {"budget_usd": 12.0, "models": ["small"]},
    }
    answers = [json.loads(text) for text in (await me.files.content(done.output_file_id)).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["a", "c"]
    assert answers[0]["response"]["body"] == {"said": [{"role": "user", "content": "hello a"}]}
    refused = json.loads((await me.files.content(done.error_file_id)).text)
    assert (refused["custom_id"], refused["response"]["status_code"], refused["error"]) == ("b", 400, None)


async def test_a_file_that_is_wrong_fails_the_batch_with_its_lines(place: Place, me: AsyncOpenAI) -> None:
    batch = await created(me, await uploaded(me, line("a"), b"{", line("a")))

    place.work()

    failed = await me.batches.retrieve(batch.id)
    assert (failed.status, failed.output_file_id) == ("failed", None)
    assert failed.failed_at is not None
    assert [(one.code, one.line) for one in failed.errors.data] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
    ]


async def test_a_batch_that_is_cancelled_keeps_what_is_done(place: Place, me: AsyncOpenAI) -> None:
    batch = await created(me, await uploaded(me, line("a"), line("late")))

    stopping = await me.batches.cancel(batch.id)
    assert (stopping.status, stopping.cancelling_at is not None) == ("cancelling", True)
    assert await me.batches.cancel(batch.id) == stopping
    place.work(until=Status.cancelled)

    stopped = await me.batches.retrieve(batch.id)
    assert (stopped.status, dict(stopped.request_counts)) == (
        "cancelled",
        {"total": 0, "completed": 1, "failed": 1},
    )
    assert json.loads((await me.files.content(stopped.error_file_id)).text)["error"]["code"] == "batch_cancelled"
    assert json.loads((await me.files.content(stopped.output_file_id)).text)["custom_id"] == "a"
    again = await me.batches.cancel(batch.id)
    assert again.status == "cancelled"


async def test_a_batch_that_has_ended_is_not_cancelled(place: Place, me: AsyncOpenAI) -> None:
    batch = await created(me, await uploaded(me))
    place.work()

    with pytest.raises(openai.BadRequestError, match="is completed cannot be cancelled"):
        await me.batches.cancel(batch.id)


async def test_lists_come_in_pages(me: AsyncOpenAI) -> None:
    files = [await uploaded(me) for _ in range(5)]
    batches = [(await created(me, file_id)).id for file_id in files]

    assert sorted([file.id async for file in me.files.list(limit=2)]) == sorted(files)
    assert sorted([batch.id async for batch in me.batches.list(limit=2)]) == sorted(batches)
    first = await me.batches.list(limit=4)
    assert (len(first.data), first.has_more, first.to_dict()["object"]) == (4, True, "list")
    up, down = [[file.id async for file in me.files.list(order=order, purpose="batch")] for order in ("asc", "desc")]
    assert up == down[::-1]
    assert [file async for file in me.files.list(purpose="batch_output")] == []


async def test_another_keys_things_are_not_there(front: Front, me: AsyncOpenAI) -> None:
    file_id = await uploaded(me)
    batch = await created(me, file_id)
    async with client_of(front, "you") as you:
        for ask in (you.files.retrieve, you.files.content, you.files.delete):
            with pytest.raises(openai.NotFoundError) as absent:
                await ask(file_id)
            assert absent.value.body["type"] == "invalid_request_error"
        for look in (you.batches.retrieve, you.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await look(batch.id)
        with pytest.raises(openai.BadRequestError) as unknown:
            await created(you, file_id)
        assert unknown.value.body["param"] == "input_file_id"
        assert [file async for file in you.files.list()] == []
        assert [one async for one in you.batches.list()] == []
    with pytest.raises(openai.AuthenticationError):
        async with client_of(front, "nobody") as nobody:
            await nobody.files.list()


async def test_files_are_deleted_unless_a_batch_reads_them(place: Place, me: AsyncOpenAI) -> None:
    file_id = await uploaded(me)
    await created(me, file_id)
    with pytest.raises(openai.BadRequestError, match="has not ended"):
        await me.files.delete(file_id)
    place.work()

    gone = await me.files.delete(file_id)

    assert (gone.id, gone.object, gone.deleted) == (file_id, "file", True)
    with pytest.raises(openai.NotFoundError):
        await me.files.content(file_id)
    assert not (place.folder / path_of_file(file_id)).exists()


async def test_files_live_as_long_as_they_are_asked_to(place: Place, me: AsyncOpenAI) -> None:
    file_id = await uploaded(me, expires_after={"anchor": "created_at", "seconds": 3600})
    file = await me.files.retrieve(file_id)
    batch = await created(me, file_id, output_expires_after={"anchor": "created_at", "seconds": 7200})

    assert file.expires_at == file.created_at + 3600
    assert place.store.job(Account("me"), batch.id).output_expires_s == 7200
    with pytest.raises(openai.BadRequestError, match="seconds"):
        await uploaded(me, expires_after={"anchor": "created_at", "seconds": 60})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"completion_window": "1d"}, "completion_window"),
    ({"completion_window": "169h"}, "completion_window"),
    ({"completion_window": "0m"}, "completion_window"),
    ({"endpoint": "/v1/embeddings"}, "endpoint"),
    ({"input_file_id": "file-none"}, "input_file_id"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"metadata": {"k": "v" * 513}}, "metadata"),
    ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after.seconds"),
    ({"routing": {"budget_usd": 0}}, "routing.budget_usd"),
    ({"routing": {"budget": 3}}, "routing.budget"),
]


async def test_what_is_wrong_with_a_batch_is_named(front: Front, me: AsyncOpenAI) -> None:
    right = {"input_file_id": await uploaded(me), "endpoint": CHAT, "completion_window": "24h"}
    async with plain_client(front) as plain:
        for wrong, param in WRONG:
            answer = await plain.post("/v1/batches", json=right | wrong)

            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), wrong
            assert error["param"].startswith(param)


async def test_models_are_those_that_are_served(me: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await created(me, await uploaded(me), extra_body={"routing": {"models": ["owl"]}})
    assert unknown.value.body["param"] == "routing.models"


WRONG_QUERIES = [
    ("files?limit=0", "limit"),
    ("files?limit=x", "limit"),
    ("files?limit=10001", "limit"),
    ("files?order=up", "order"),
    ("files?after=file-none", "after"),
    ("batches?limit=101", "limit"),
    ("batches?after=batch_none", "after"),
]


async def test_what_is_wrong_with_a_list_is_named(front: Front) -> None:
    async with plain_client(front) as plain:
        for query, param in WRONG_QUERIES:
            answer = await plain.get(f"/v1/{query}")

            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), query


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    text = b""
    for disposition, value in parts:
        text += b"--x\r\ncontent-disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + value + b"\r\n"
    return text + end


PURPOSE = ('name="purpose"', b"batch")
FILE = ('name="file"; filename="a.jsonl"', b"{}\n")


FORMS: list[tuple[bytes, int, str | None]] = [
    (form(FILE, PURPOSE), 200, None),
    (form(PURPOSE, FILE, ('name="other"', b"1")), 200, None),
    (form(PURPOSE), 400, "file"),
    (form(FILE), 400, "purpose"),
    (form(FILE, ('name="purpose"', b"fine-tune")), 400, "purpose"),
    (form(FILE, PURPOSE, FILE), 400, "file"),
    (form(PURPOSE, FILE, end=b""), 400, None),
    (form(PURPOSE, FILE)[:-20], 400, None),
    (b"nonsense", 400, None),
    (b"", 400, None),
    (form(('name="purpose"', b"b" * 5000), FILE), 413, None),
    (form(*[PURPOSE] * 17), 413, None),
    (form(('name="file"', b"x" * 5000), PURPOSE), 413, "file"),
]


async def test_forms(place: Place) -> None:
    async with ingress_before(engine, **sections(place, max_file_bytes=4096)) as front, plain_client(front) as plain:
        for body, status, param in FORMS:
            kind = {"content-type": "multipart/form-data; boundary=x"}
            answer = await plain.post("/v1/files", content=body, headers=kind)
            listed = (await plain.get("/v1/files")).json()["data"]

            assert (answer.status_code, answer.json().get("error", {}).get("param")) == (status, param), body
            kept = [blob.size for blob in place.blobs.list("files")]
            assert kept == [file["bytes"] for file in listed] == ([3] if status == 200 else [])
            assert not list(place.folder.rglob(".*"))
            if status == 200:
                await plain.delete(f"/v1/files/{answer.json()['id']}")


async def test_what_is_no_form_or_packed_is_refused(front: Front) -> None:
    async with plain_client(front) as plain:
        for headers, status in (
            ({"content-type": "application/json"}, 400),
            ({"content-type": "multipart/form-data"}, 400),
            ({"content-type": f"multipart/form-data; boundary={'x' * 3000}"}, 400),
            ({"content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"}, 415),
        ):
            answer = await plain.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
            assert answer.status_code == status, answer.text


async def test_a_caller_has_room_for_so_much(place: Place) -> None:
    async with ingress_before(engine, **sections(place, max_stored_bytes=2000, max_open=1)) as front:
        me, you = client_of(front, "me"), client_of(front, "you")
        async with me, you:
            file_id = await uploaded(me, b"x" * 1500)
            with pytest.raises(openai.APIStatusError) as full:
                await uploaded(me, b"x" * 1500)
            assert full.value.status_code == 413
            await uploaded(you, b"x" * 1500)
            await created(me, file_id)
            with pytest.raises(openai.RateLimitError):
                await created(me, file_id)
    assert len(place.blobs.list("files")) == 2


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(place: Place, front: Front) -> None:
    _, writer = await front.connect()
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer me\r\n"
        "content-type: multipart/form-data; boundary=x\r\ncontent-length: 4000000\r\n\r\n"
    )
    writer.write(head.encode() + form(PURPOSE, FILE, end=b"")[:-2] + b"x" * 2_000_000)
    await writer.drain()
    while not (drafts := list((place.folder / "files").glob(".draft-*"))) or not drafts[0].stat().st_size:
        await asyncio.sleep(0.01)
    writer.close()

    async with asyncio.timeout(5):
        while list((place.folder / "files").glob(".*")) or front.door.requests:
            await asyncio.sleep(0.01)
    assert place.blobs.list("files") == []
    assert not front.ingress._parts.desk._uploads


async def test_a_large_file_is_nowhere_whole(place: Place, me: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    run = desk.Threads.run

    async def watched(self: Any, work: Any, *arguments: Any) -> Any:
        nonlocal largest
        largest = max([largest, *(len(one) for one in arguments if isinstance(one, bytes))])
        return await run(self, work, *arguments)

    monkeypatch.setattr(desk.Threads, "run", watched)
    content = os.urandom(1 << 16) * 256  # 16 MiB

    file = await me.files.create(file=("large.jsonl", io.BytesIO(content)), purpose="batch")

    assert desk.WRITE_BYTES <= largest < 2 * desk.WRITE_BYTES
    assert (await me.files.content(file.id)).content == content


async def test_without_the_section_there_are_no_batches() -> None:
    async with ingress_before(engine) as front, client_of(front, "x") as client:
        for ask in (client.files.list, client.batches.list):
            with pytest.raises(openai.NotFoundError, match="see /docs"):
                await ask()


async def test_a_store_that_fails_is_told_without_its_words(place: Place, front: Front, me: AsyncOpenAI) -> None:
    file_id = await uploaded(me)
    (place.folder / path_of_file(file_id)).unlink()

    with pytest.raises(openai.InternalServerError) as failed:
        await me.files.content(file_id)

    assert failed.value.status_code == 503
    assert str(place.folder) not in failed.value.message


async def test_who_sends_too_slowly_or_too_much_at_once_keeps_nobody_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SLOWEST_BYTES_PER_S", 1e6)
    monkeypatch.setattr(desk, "OWN_UPLOADS", 1)
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer me\r\n"
        "content-type: multipart/form-data; boundary=x\r\ncontent-length: 40000000\r\n\r\n"
    )
    async with ingress_before(engine, **sections(place), ingress={"upload_timeout_s": 3.0}) as front:
        reader, writer = await front.connect()
        writer.write(head.encode() + form(PURPOSE, FILE, end=b"")[:-2])
        while not front.ingress._parts.desk._uploads:
            await asyncio.sleep(0.01)
        me, you = client_of(front, "me"), client_of(front, "you")
        async with me, you:
            with pytest.raises(openai.RateLimitError):
                await uploaded(me)
            await uploaded(you)
            answer = asyncio.create_task(answer_of(reader))
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.1)
            status, said = answer.result()
            writer.close()
            assert (status, "send them faster" in said["error"]["message"]) == (408, True)
            await uploaded(me)
    assert len(place.blobs.list("files")) == 2
