"""Errors as OpenAI's clients expect them: an envelope with a status, or an event in a stream."""

from __future__ import annotations

import json

from starlette.responses import JSONResponse, Response

from router.errors import ApportionError


def error_response(error: ApportionError) -> Response:
    headers = {"retry-after": "1"} if error.status in {429, 503} else None
    return JSONResponse(error.envelope(), status_code=error.status, headers=headers)


def error_event(error: ApportionError) -> bytes:
    """The last events of a stream that breaks after its status was sent."""
    body = json.dumps(error.envelope(), separators=(",", ":"))
    return f"data: {body}\n\ndata: [DONE]\n\n".encode()
