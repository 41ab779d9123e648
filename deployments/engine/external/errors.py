"""What providers say is wrong, in whatever form, as an error of this service's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

_LONGEST = 2000  # characters of a message that is passed on
# Words of a refusal that is about what was asked, not about who asks, or for which model.
_ABOUT_THE_REQUEST = (
    "moderation", "flagged", "content_policy", "content policy", "safety", "support",
    "previous_response", "response with",
)  # fmt: skip
REFUSED = "credentials refused"
EXHAUSTED = "quota exhausted"


def said(body: bytes) -> tuple[str | None, str | None, str]:
    """Message, blamed field and code of an error's body; None where it tells none.

    vLLM, llama.cpp and most providers send OpenAI's envelope, Anthropic one around it, others a text or a detail.
    """
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None, None, ""
    if isinstance(told, list) and told:  # as Google's endpoint does
        told = told[0]
    error = told.get("error", told) if isinstance(told, Mapping) else told
    if isinstance(error, str):
        return error[:_LONGEST], None, ""
    if not isinstance(error, Mapping):
        return None, None, ""
    message = next((error[name] for name in ("message", "detail") if isinstance(error.get(name), str)), None)
    param = error.get("param")
    codes = " ".join(str(error.get(name) or "") for name in ("code", "type", "status"))
    return None if message is None else message[:_LONGEST], param if isinstance(param, str) else None, codes


def trouble_of(status: int, body: bytes) -> str | None:
    """Why nothing can be asked of a provider until somebody acts; None: it has answered, or refuses this request."""
    message, _, codes = said(body)
    text = f"{message or ''} {codes}".lower()
    if status == 402 or (status == 429 and "insufficient_quota" in text):
        return EXHAUSTED
    if status == 401 or (status in {403, 404} and not any(word in text for word in _ABOUT_THE_REQUEST)):
        return REFUSED
    return None


def envelope(body: bytes, status: int, hide: Callable[[str], str]) -> dict[str, Any]:
    """An error's body in OpenAI's envelope, without anything that is secret."""
    message, param, codes = said(body)
    told = f"the provider refused the request with status {status}" if message is None else hide(message)
    code = codes.split(" ")[0] or None
    return {
        "error": {
            "message": told,
            "type": "invalid_request_error",
            "param": None if param is None else hide(param),
            "code": None if code is None else hide(code),
        }
    }
