"""Clients that ask for a stream and do not read it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.deployments.bare_http import head
from tests.deployments.ingress.dispatching import PATH
from tests.deployments.ingress.front import chat_body, ingress_before
from tests.deployments.ingress.test_door import until


def endless() -> Starlette:
    """An engine that streams as fast as it is read."""

    async def events() -> AsyncIterator[bytes]:
        while True:
            yield b"data: " + b"x" * 60_000 + b"\n\n"
            await asyncio.sleep(0)

    async def answer(_: Request) -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(routes=[Route(PATH, answer, methods=["POST"])])


@pytest.mark.parametrize(
    ("fields", "dispatch"),
    [({"routing": {"timeout_s": 0.5}}, {}), ({}, {"client_stall_s": 0.5})],
    ids=["at its deadline", "when it has stalled for long"],
)
async def test_a_client_that_does_not_read_loses_its_connection_and_its_seat(fields: dict, dispatch: dict) -> None:
    body = chat_body(stream=True, **fields)
    async with ingress_before(endless(), dispatch=dispatch) as front:
        host, port = front.server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.setblocking(False)
            client.send(head(len(body)) + body)
            await until(lambda: front.door.requests == 1)
            await until(lambda: front.door.requests == 0)
            await until(lambda: front.router.done)
            # Not only given up: what it has not read is gone with the connection.
            await until(lambda: not front.server._server.server_state.connections)


async def test_a_client_that_reads_gets_its_error_event_at_its_deadline() -> None:
    body = chat_body(stream=True, routing={"timeout_s": 0.5})
    async with ingress_before(endless(), dispatch={"client_stall_s": 0.2}) as front:
        reader, writer = await front.connect()
        writer.write(head(len(body)) + body)
        said = b""
        while not said.endswith(b"0\r\n\r\n"):
            said = (said + await asyncio.wait_for(reader.read(1 << 20), 10))[-1000:]
        error = said[said.index(b'{"error"') : said.index(b"}}") + 2]
        assert json.loads(error)["error"]["code"] == "deadline_exceeded"
        writer.close()
