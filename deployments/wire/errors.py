"""Errors as OpenAI's clients expect them: an envelope with a status, or an event in a stream."""

from __future__ import annotations

import json
import math

from starlette.responses import JSONResponse, Response

from apportion.router.errors import ApportionError, InvalidRequestError, UnavailableError

# OpenAI's clients wait no longer than this for `retry-after`; beyond it they would ask again at once, and in vain.
LONGEST_WAIT_S = 60.0


def error_response(error: ApportionError) -> Response:
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.status in {429, 503}:
        retry_after_s = 1.0
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, math.ceil(retry_after_s)))}
    if retry_after_s is not None and retry_after_s > LONGEST_WAIT_S:
        headers["x-should-retry"] = "false"
    return JSONResponse(error.envelope(), status_code=error.status, headers=headers)


def error_event(error: ApportionError) -> bytes:
    """The last events of a stream that breaks after its status was sent."""
    body = json.dumps(error.envelope(), separators=(",", ":"))
    return f"data: {body}\n\ndata: [DONE]\n\n".encode()


def engine_error(status: int, body: bytes) -> bytes:
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
    error = kind(message, param=param.removeprefix("body.") if isinstance(param, str) else None)
    return json.dumps(error.envelope(), separators=(",", ":")).encode()
