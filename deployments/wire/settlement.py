"""How an engine tells what an answer cost, how long it was, and, where its ingress asks, how sure the model was of it:
headers, or an SSE comment at the end of a stream.

Clients see the comment, with nothing but the cost, where they have asked for it: some read streams more strictly than
the standard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from apportion.router.prices import ModelPrice
from apportion.router.signals import Signals, parse_signals

SETTLED_HEADER = "x-router-settled-cost-usd"
SIGNALS_HEADER = "x-router-signals"  # between engine and ingress
_BEGINNING = f": {SETTLED_HEADER} ".encode()
_ESTIMATED = "estimated"
_SIGNALS_LINE = f"\n: {SIGNALS_HEADER} ".encode()
_COMMENT = re.compile(
    rb"(?<=\n)" + _BEGINNING + rb"([0-9.e+-]+) (\d+) (\d+)( estimated)?(?:" + _SIGNALS_LINE + rb"([0-9.e+ -]+))?\n\n"
)
_COMMENT_MAX_BYTES = 180
PRICE_HEADER = "x-router-price-usd-per-million"  # between ingress and engine
SETTLED_KIND_HEADER = "x-router-settled"
TOKENS_HEADER = "x-router-settled-tokens"  # between engine and ingress


class Settled(NamedTuple):
    """What an answer has cost, and the tokens of its prompts and of all that was generated.

    `estimated`: whoever answered has not counted them. `signals`: how sure the model was, where that was asked.
    """

    cost_usd: float
    input_tokens: int
    output_tokens: int
    estimated: bool = False
    signals: Signals | None = None


def price_header(price: ModelPrice) -> tuple[str, str]:
    """The price that the router planned with goes to the engine with the request, so that both mean the same one."""
    parts = (price.input_usd_per_million, price.output_usd_per_million, price.cached_input_usd_per_million)
    return PRICE_HEADER, " ".join(repr(part) for part in parts if part is not None)


def price_of(headers: Mapping[str, str], otherwise: ModelPrice) -> ModelPrice:
    """The price that came with a request; else the configured one."""
    value = headers.get(PRICE_HEADER)
    return otherwise if value is None else ModelPrice(*map(float, value.split()))


def cost_text(cost_usd: float) -> str:
    """As headers and comments have it: to the nano-USD of what anybody will pay for an answer."""
    return f"{cost_usd:.12g}"


def settled_headers(settled: Settled) -> dict[str, str]:
    return {
        SETTLED_HEADER: cost_text(settled.cost_usd),
        TOKENS_HEADER: f"{settled.input_tokens} {settled.output_tokens}",
        **({SETTLED_KIND_HEADER: _ESTIMATED} if settled.estimated else {}),
        **({} if settled.signals is None else {SIGNALS_HEADER: settled.signals.text}),
    }


def settled_of(headers: Mapping[str, str]) -> Settled | None:
    """What an engine's headers tell; None: nothing."""
    cost_usd, tokens = headers.get(SETTLED_HEADER), headers.get(TOKENS_HEADER)
    if cost_usd is None or tokens is None:
        return None
    input_tokens, output_tokens = map(int, tokens.split())
    signals = headers.get(SIGNALS_HEADER)
    return Settled(
        float(cost_usd),
        input_tokens,
        output_tokens,
        headers.get(SETTLED_KIND_HEADER) == _ESTIMATED,
        None if signals is None else parse_signals(signals),
    )


def settled_comment(settled: Settled) -> str:
    """An SSE comment: a line that begins with a colon, one more where there are signals, and an empty one."""
    kind = f" {_ESTIMATED}" if settled.estimated else ""
    signals = "" if settled.signals is None else f"{_SIGNALS_LINE.decode()}{settled.signals.text}"
    cost = f": {SETTLED_HEADER} {cost_text(settled.cost_usd)} {settled.input_tokens} {settled.output_tokens}{kind}"
    return f"{cost}{signals}\n\n"


class SettledStream:
    """A stream on its way to the client: `settled` is what its comment has told, None before that.

    Args:
        told: the comment goes on to the client; else it is taken out, in however many pieces it comes.
    """

    def __init__(self, *, told: bool) -> None:
        self.settled: Settled | None = None
        self._told = told
        self._before = b"\n"  # the last byte that went on
        self._held = b""  # what may be the beginning of the comment

    def passed(self, chunk: bytes) -> bytes:
        """What goes on to the client, now that the chunk has come; may be nothing."""
        data = self._before + self._held + chunk
        if (comment := _COMMENT.search(data)) is not None:
            signals = None if comment[5] is None else parse_signals(comment[5].decode())
            self.settled = Settled(float(comment[1]), int(comment[2]), int(comment[3]), comment[4] is not None, signals)
            told = _BEGINNING + comment[1] + (comment[4] or b"") + b"\n\n" if self._told else b""
            data = data[: comment.start()] + told + data[comment.end() :]
        end = len(data)
        # The comment's beginning goes before any later line of it.
        line = (data.rfind(b"\n" + _BEGINNING) + 1) or (data.rfind(b"\n:") + 1)
        if line and self.settled is None and _may_become_the_comment(data[line:]):
            end = line
        self._before, self._held = data[end - 1 : end], data[end:]
        return data[1:end]


def _may_become_the_comment(line: bytes) -> bool:
    if len(line) > _COMMENT_MAX_BYTES or b"\n\n" in line:
        return False
    return line.startswith(_BEGINNING) or _BEGINNING.startswith(line)
