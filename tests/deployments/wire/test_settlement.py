"""The settled cost of a stream reaches the client where it is asked for, and else leaves no trace; signals never do."""

from __future__ import annotations

import pytest

from apportion.deployments.wire.settlement import (
    Settled,
    SettledStream,
    settled_comment,
    settled_headers,
    settled_of,
)
from apportion.router.signals import Signals

SURE = Signals(-1.23456e-05, -12.3456, -1.5e-05, 12.3456)
TOLD = [
    Settled(2.5e-05, 12, 345),
    Settled(2.5e-05, 12, 345, signals=SURE),
    Settled(1.23456789012e-05, 1, 2, True, SURE),
]
COMMENT = settled_comment(TOLD[0]).encode()
TEXT = b'data: {"text": ": x-router-settled-cost-usd 1\\n: x"}\n\n'
OTHER = b": x-rays\n\n: keep\n\n"  # comments that begin as the cost's does
STREAMS = [
    (TEXT + OTHER, b"data: [DONE]\n\n"),
    (b"event: a\ndata: {}\n\n", b"event: message_stop\ndata: {}\n\n"),
    (TEXT, b""),
    (b"", b"data: [DONE]\n\n"),
]


def passed(stream: SettledStream, data: bytes, size: int) -> bytes:
    return b"".join(stream.passed(data[i : i + size]) for i in range(0, len(data), size))


@pytest.mark.parametrize(("before", "after"), STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 30, 1000])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("settled", TOLD)
def test_in_whatever_pieces_it_comes(before: bytes, after: bytes, size: int, told: bool, settled: Settled) -> None:
    stream = SettledStream(told=told)
    whole = before + settled_comment(settled).encode() + after
    kind = b" estimated" if settled.estimated else b""
    told_comment = b": x-router-settled-cost-usd %.12g%s\n\n" % (settled.cost_usd, kind) if told else b""
    assert passed(stream, whole, size) == before + told_comment + after
    assert stream.settled == settled


@pytest.mark.parametrize("settled", TOLD)
def test_headers_tell_the_same(settled: Settled) -> None:
    headers = settled_headers(settled)
    assert settled_of(headers) == settled
    assert ("x-router-signals" in headers) == (settled.signals is not None)


def test_what_cannot_become_the_cost_is_passed_on_at_once() -> None:
    stream = SettledStream(told=False)
    for chunk in (b"data: a", b"\n\ndata: :", b" x-router-settled-cost-usd 1\n\n", b": x-rays", b"\n\n"):
        assert stream.passed(chunk) == chunk
    assert stream.passed(b": x-r") == b""
    assert stream.passed(b"ays\n\n") == b": x-rays\n\n"
    assert stream.settled is None


def test_half_a_cost_at_the_end_is_none() -> None:
    stream = SettledStream(told=False)
    assert passed(stream, TEXT + COMMENT[:-1], 5) == TEXT
    assert stream.settled is None
