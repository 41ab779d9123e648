import asyncio
import gzip
import logging
import subprocess
import sys
import zlib

import httpx
import pytest

from apportion.deployments.config.service import parse_config
from apportion.router.errors import ConfigurationError
from tests.deployments.bare_http import head
from tests.deployments.ingress.dispatching import PATH, simulated
from tests.deployments.ingress.front import CONFIG, answer_of, chat_body, ingress_before


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("bound_s", "headers"), [(0.5, {}), (60.0, {"x-router-timeout-s": "0.5"})])
async def test_a_body_that_trickles_in_ends_with_408_and_leaves_nothing(
    bound_s: float, headers: dict[str, str]
) -> None:
    async with ingress_before(simulated(), ingress={"upload_timeout_s": bound_s}) as front:
        reader, writer = await front.connect()
        writer.write(head(1000, **headers))
        for _ in range(3):
            writer.write(b" ")
            await asyncio.sleep(0.1)
        status, error = await answer_of(reader)
        assert status == 408
        assert error["error"]["code"] == "upload_timeout"
        await until(lambda: front.door.requests == 0)
        assert front.door.bytes_in_flight == 0
        writer.close()


async def test_the_upload_is_a_part_of_the_requests_time() -> None:
    async with ingress_before(simulated(first_token_s=0.6)) as front:
        body = chat_body(routing={"timeout_s": 1.0})
        reader, writer = await front.connect()
        writer.write(head(len(body)) + body[:10])
        await asyncio.sleep(0.7)
        writer.write(body[10:])
        status, error = await answer_of(reader)
        assert status == 504
        assert error["error"]["code"] == "deadline_exceeded"
        writer.close()


async def test_a_client_that_leaves_in_its_upload_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "apportion")
    async with ingress_before(simulated()) as front:
        _, writer = await front.connect()
        writer.write(head(1000) + b"{")
        await until(lambda: front.door.bytes_in_flight > 0)
        writer.close()
        await until(lambda: front.door.requests == 0)
        assert front.door.bytes_in_flight == 0
        await asyncio.sleep(0.05)
    ours = [record for record in caplog.records if record.name.startswith("apportion.deployments.ingress")]
    assert not [record for record in ours if record.levelno >= logging.INFO]
    assert "Traceback" not in caplog.text


async def test_more_requests_than_fit_are_told_so_at_the_door() -> None:
    async with (
        ingress_before(simulated(first_token_s=0.5), ingress={"max_requests": 1}) as front,
        httpx.AsyncClient(base_url=front.server.url) as client,
    ):
        first = asyncio.create_task(client.post(PATH, content=chat_body()))
        await until(lambda: front.door.requests == 1)
        second = await client.post(PATH, content=chat_body())
        assert second.status_code == 429
        assert second.json()["error"]["code"] == "overloaded"
        assert second.headers["retry-after"] == "1"
        assert (await first).status_code == 200
        assert (await client.post(PATH, content=chat_body())).status_code == 200


async def test_bytes_in_flight_are_bounded_and_given_back() -> None:
    bounds = {"max_body_bytes": 1024, "max_in_flight_bytes": 70 * 1024}
    async with (
        ingress_before(simulated(first_token_s=0.5), ingress=bounds) as front,
        httpx.AsyncClient(base_url=front.server.url) as client,
    ):
        body = chat_body(messages=[{"role": "user", "content": ", " * 400}])  # some 28 kB of memory by the door's count
        answers = await asyncio.gather(*(client.post(PATH, content=body) for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        assert {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429} == {"overloaded"}
        await until(lambda: front.door.requests == 0)
        assert front.door.bytes_in_flight == 0
        assert (await client.post(PATH, content=body)).status_code == 200


PACKED: list[tuple[list[str], bytes, int, str]] = [
    (["gzip"], gzip.compress(chat_body()), 200, ""),
    (["gzip", "gzip"], gzip.compress(gzip.compress(chat_body())), 200, ""),  # two header lines
    (["deflate"], zlib.compress(chat_body()), 200, ""),
    (["gzip"], chat_body(), 400, "the body is no whole gzip"),
    (["gzip"], b"", 400, "the body is no whole gzip"),
    (["gzip"], gzip.compress(chat_body())[:-4], 400, "the body is no whole gzip"),
    ([], gzip.compress(chat_body()), 400, "the body is not UTF-8"),
    (["gzip"], gzip.compress(b"\xff\xfe" + chat_body()), 400, "the body is not UTF-8"),
    (["br"], chat_body(), 415, "use gzip, deflate or zstd"),
]


async def test_a_packed_body_is_read_or_refused_in_clear_words() -> None:
    async with (
        ingress_before(simulated()) as front,
        httpx.AsyncClient(base_url=front.server.url) as client,
    ):
        for encodings, packed, status, said in PACKED:
            headers = [("content-type", "application/json"), *(("content-encoding", one) for one in encodings)]
            answer = await client.post(PATH, content=packed, headers=headers)
            assert (answer.status_code, said in answer.text) == (status, True), answer.text
        await until(lambda: front.door.requests == 0)
        assert front.door.bytes_in_flight == 0


async def test_the_body_is_let_go_of_when_the_answer_begins() -> None:
    async with (
        ingress_before(simulated(tokens=20, token_s=0.05)) as front,
        httpx.AsyncClient(base_url=front.server.url) as client,
        client.stream("POST", PATH, content=chat_body(stream=True)) as answer,
    ):
        async for _ in answer.aiter_bytes():
            break
        assert front.door.requests == 1
        assert front.door.bytes_in_flight == 0


@pytest.mark.parametrize(
    "text",
    [
        "[" + "[],",
        "[" + "1,",
        '["' + "x" * 40 + '",',
        '{"' + "k" * 9 + '":"',
        '["' + "é" * 30 + '",',
        '["' + "x" * 500 + '🦉",',
    ],
)
def test_the_door_counts_at_least_the_memory_that_a_body_takes(text: str) -> None:
    # In a process of its own: nothing else may allocate.
    measure = """
import json, sys, tracemalloc
from apportion.deployments.ingress.door import _BEGINNINGS, BYTE_WEIGHT, VALUE_WEIGHT
opening, rest = sys.argv[1][0], sys.argv[1][1:]
n = 200_000 // len(rest.encode())
if opening == "[":
    raw = ("[" + (rest * n)[:-1] + "]").encode()
else:
    raw = json.dumps({f"{i:09d}": "x" for i in range(n)}, separators=(",", ":")).encode()
tracemalloc.start()
body = json.loads(raw.decode())
forwarded = json.dumps(body, ensure_ascii=False).encode()
taken = tracemalloc.get_traced_memory()[0] + len(raw)
print(taken, BYTE_WEIGHT * len(raw) + VALUE_WEIGHT * sum(map(raw.count, _BEGINNINGS)))
"""
    run = subprocess.run([sys.executable, "-c", measure, text], capture_output=True, text=True, check=True)
    taken, counted = map(int, run.stdout.split())
    assert taken <= counted


def test_a_bound_that_one_body_does_not_fit_in_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"ingress: .*at least 70 times max_body_bytes.*make it 293"):
        parse_config(CONFIG | {"ingress": {"max_in_flight_bytes": 1 << 20}})


def test_the_number_of_requests_follows_the_descriptors() -> None:
    measure = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
from apportion.deployments.ingress.door import requests_by_descriptors
print(requests_by_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    run = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    most, soft = map(int, run.stdout.split())
    assert soft == 1024
    assert 2 * most < soft
    assert most > 400
