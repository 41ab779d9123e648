"""Errors as the clients of each API expect them: an envelope with a status, or an event in a stream."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse, Response

from apportion.router.errors import ApportionError, InvalidRequestError, UnavailableError

# OpenAI's clients wait no longer than this for `retry-after`; beyond it they would ask again at once, and in vain.
LONGEST_WAIT_S = 60.0


class ErrorStyle:
    """How OpenAI's chats and completions tell errors, and all that is no API of another kind."""

    def body(self, error: ApportionError) -> dict[str, Any]:
        """The body of an answer."""
        return error.envelope()

    def event(self, error: ApportionError, number: int) -> bytes:
        """The last events of a stream that breaks after its status was sent and so many events."""
        return f"data: {_compact(self.body(error))}\n\ndata: [DONE]\n\n".encode()


class ResponseStyle(ErrorStyle):
    """How OpenAI's Responses tell errors."""

    def event(self, error: ApportionError, number: int) -> bytes:
        said = error.envelope()["error"]
        body = {"type": "error", "sequence_number": number} | {
            name: said[name] for name in ("code", "message", "param")
        }
        return f"event: error\ndata: {_compact(body)}\n\n".encode()


class MessageStyle(ErrorStyle):
    """How Anthropic's API tells errors."""

    def body(self, error: ApportionError) -> dict[str, Any]:
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}

    def event(self, error: ApportionError, number: int) -> bytes:
        return f"event: error\ndata: {_compact(self.body(error))}\n\n".encode()


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_MESSAGES = MessageStyle()
_SAID = ("code", "message", "param")
_RESPONSES = ResponseStyle()
_OTHERS = ErrorStyle()


def style_of(path: str) -> ErrorStyle:
    """The style of an endpoint, by its path under whatever prefix."""
    if path.endswith("/v1/responses"):
        return _RESPONSES
    return _MESSAGES if path.endswith(("/v1/messages", "/v1/messages/count_tokens")) else _OTHERS


def error_response(error: ApportionError, path: str = "") -> Response:
    """An error as an answer.

    Args:
        path: of the endpoint that was asked.
    """
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.status in {429, 503}:
        retry_after_s = 1.0
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    if retry_after_s is not None and retry_after_s > LONGEST_WAIT_S:
        headers["x-should-retry"] = "false"
    return JSONResponse(style_of(path).body(error), status_code=error.status, headers=headers)


def engine_error(status: int, body: bytes) -> ApportionError:
    """An engine's error in the same words as our own: vLLM names its types after classes and its codes after HTTP's.

    Args:
        status: the engine's status, which stays.
        body: what it said; the message of an envelope and the field that it blames are kept, other text is not.
    """
    try:
        said = json.loads(body)["error"]
        message, param = str(said["message"]), said.get("param")
    except (ValueError, KeyError, TypeError):
        message, param = f"the engine refused the request with status {status}", None
    kind = InvalidRequestError if status < 500 else UnavailableError
    return kind(message, param=param.removeprefix("body.") if isinstance(param, str) else None)


def _compact(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"))
