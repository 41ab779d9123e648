"""How long answers have to be by their requests' own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AS_MANY_AS_FIT = 2**31 - 1


def least_tokens(body: Mapping[str, Any], longest: int | None) -> int:
    """Tokens that each answer has at least, as far as they fit; values that mean nothing are the engine's to refuse.

    Args:
        body: of a request, with vLLM's `min_tokens` and `ignore_eos`; where no stop is named, the latter leaves nothing
            but its length to end an answer.
        longest: tokens of the longest answer that it allows; None: as many as fit.
    """
    most = AS_MANY_AS_FIT if longest is None else longest
    if body.get("ignore_eos") is True and not (body.get("stop") or body.get("stop_token_ids")):
        return most
    asked = body.get("min_tokens")
    return min(max(asked, 0), most) if isinstance(asked, int) else 0
