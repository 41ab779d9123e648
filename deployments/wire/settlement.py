"""How an engine tells what an answer cost: a header, or a comment just before or after a stream's last event.

Clients that follow the SSE standard skip comments, so streams stay what OpenAI's clients expect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from apportion.router.prices import ModelPrice

SETTLED_HEADER = "x-router-settled-cost-usd"
_COMMENT = re.compile(rb"(?:^|\n): " + SETTLED_HEADER.encode() + rb" ([0-9.e+-]+)\n")
COMMENT_MAX_BYTES = 96
LAST_EVENT_MAX_BYTES = 96  # what may follow the comment: the end that the API's streams have, which says nothing else
PRICE_HEADER = "x-router-price-usd-per-million"  # between ingress and engine


def price_header(price: ModelPrice) -> tuple[str, str]:
    """The price that the router planned with goes to the engine with the request, so that both mean the same one."""
    parts = (price.input_usd_per_million, price.output_usd_per_million, price.cached_input_usd_per_million)
    return PRICE_HEADER, " ".join(repr(part) for part in parts if part is not None)


def price_of(headers: Mapping[str, str], otherwise: ModelPrice) -> ModelPrice:
    """The price that came with a request; else the configured one."""
    value = headers.get(PRICE_HEADER)
    return otherwise if value is None else ModelPrice(*map(float, value.split()))


def settled_header(cost_usd: float) -> tuple[str, str]:
    return SETTLED_HEADER, f"{cost_usd:.12g}"


def settled_comment(cost_usd: float) -> str:
    """An SSE comment: a line that begins with a colon, and an empty one."""
    return f": {SETTLED_HEADER} {cost_usd:.12g}\n\n"


def find_settled(tail: bytes) -> float | None:
    """The cost in USD from the end of a stream; None if the engine did not get to tell."""
    match = _COMMENT.search(tail)
    return float(match.group(1)) if match else None
