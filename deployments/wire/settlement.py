"""How an engine tells what an answer cost: a header, or an SSE comment at the end of a stream.

Clients see the comment where they have asked for it: some read streams more strictly than the standard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from apportion.router.prices import ModelPrice

SETTLED_HEADER = "x-router-settled-cost-usd"
_BEGINNING = f": {SETTLED_HEADER} ".encode()
_COMMENT = re.compile(rb"(?<=\n)" + _BEGINNING + rb"([0-9.e+-]+)\n\n")
_COMMENT_MAX_BYTES = 96
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


class SettledStream:
    """A stream on its way to the client: `cost_usd` is what its comment has told, None before that.

    Args:
        told: the comment goes on to the client; else it is taken out, in however many pieces it comes.
    """

    def __init__(self, *, told: bool) -> None:
        self.cost_usd: float | None = None
        self._told = told
        self._before = b"\n"  # the last byte that went on
        self._held = b""  # what may be the beginning of the comment

    def passed(self, chunk: bytes) -> bytes:
        """What goes on to the client, now that the chunk has come; may be nothing."""
        data = self._before + self._held + chunk
        if (comment := _COMMENT.search(data)) is not None:
            self.cost_usd = float(comment[1])
            if not self._told:
                data = data[: comment.start()] + data[comment.end() :]
        end = len(data)
        line = data.rfind(b"\n:") + 1
        if line and self.cost_usd is None and _may_become_the_comment(data[line:]):
            end = line
        self._before, self._held = data[end - 1 : end], data[end:]
        return data[1:end]


def _may_become_the_comment(line: bytes) -> bool:
    return len(line) <= _COMMENT_MAX_BYTES and (line.startswith(_BEGINNING) or _BEGINNING.startswith(line))
