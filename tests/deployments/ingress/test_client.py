"""What clients of each API are told when a request fails, before a stream's first byte and after it."""

from __future__ import annotations

import json

import pytest

from apportion.deployments.ingress.client import Client
from apportion.deployments.wire.errors import error_response
from apportion.router.errors import (
    ApportionError,
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    RateLimitError,
    UnavailableError,
    UnknownModelError,
)
from tests.deployments.ingress.dispatching import Browser

ERROR = UnavailableError("the engine broke off; send the request again")


async def broken_stream(path: str, *chunks: bytes) -> bytes:
    browser = Browser()
    client = Client(browser.send, path=path)
    await client.start_stream(200, [])
    for chunk in chunks:
        await client.chunk(chunk)
    await client.fail(ERROR)
    return browser.body


@pytest.mark.parametrize("chunks", [(b"event: a\ndata: {}\n", b"\nevent: b\ndata: {}\n\n"), (b"event: a\n\n\n\n",), ()])
async def test_a_broken_response_ends_with_the_error_event_of_its_clients(chunks: tuple[bytes, ...]) -> None:
    events = pytest.importorskip("openai.types.responses")
    *before, last, end = (await broken_stream("/any/v1/responses", *chunks)).split(b"\n\n")
    kind, data = last.split(b"\n")
    event = events.ResponseErrorEvent.model_validate_json(data.removeprefix(b"data: "), strict=True)
    assert (kind, end) == (b"event: error", b"")
    assert (event.code, event.message, event.sequence_number) == ("unavailable", ERROR.message, len(before))


async def test_half_an_event_is_ended_before_the_error() -> None:
    half, error, _ = (await broken_stream("/v1/responses", b'event: a\ndata: {"x')).split(b"\n\n")
    assert (half, error.split(b"\n")[0]) == (b'event: a\ndata: {"x', b"event: error")


async def test_an_engines_refusal_is_told_in_the_words_of_the_api() -> None:
    browser = Browser()
    said = b'{"error": {"message": "too hot", "type": "BadRequestError", "param": "body.temperature", "code": 400}}'
    await Client(browser.send, path="/v1/responses").refuse(400, [], said)
    error = json.loads(browser.body)["error"]
    assert (browser.status, error["message"], error["param"]) == (400, "too hot", "temperature")


def test_errors_before_a_stream_are_openais() -> None:
    body = json.loads(bytes(error_response(RateLimitError("slower"), "/v1/responses").body))
    assert body == {
        "error": {"message": "slower", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequestError("x"), "invalid_request_error"),
        (ContextLengthError("x"), "invalid_request_error"),
        (AuthenticationError("x"), "authentication_error"),
        (UnknownModelError("x"), "not_found_error"),
        (RateLimitError("x"), "rate_limit_error"),
        (UnavailableError("x"), "overloaded_error"),
        (ApportionError("x"), "api_error"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/any/v1/messages/count_tokens"])
async def test_anthropics_clients_are_told_in_their_words(error: ApportionError, kind: str, path: str) -> None:
    types = pytest.importorskip("anthropic.types")
    told = error_response(error, path)
    body = json.loads(bytes(told.body))
    assert (told.status_code, body) == (error.status, {"type": "error", "error": {"type": kind, "message": "x"}})
    types.ErrorResponse.model_validate(body | {"request_id": None})


async def test_a_broken_message_ends_with_the_error_event_of_its_clients() -> None:
    *_, last, end = (await broken_stream("/v1/messages", b"event: ping\ndata: {}\n\n")).split(b"\n\n")
    kind, data = last.split(b"\n")
    assert (kind, end) == (b"event: error", b"")
    said = {"type": "overloaded_error", "message": ERROR.message}
    assert json.loads(data.removeprefix(b"data: ")) == {"type": "error", "error": said}
