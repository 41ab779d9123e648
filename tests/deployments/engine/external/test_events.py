"""Streams of providers, in whatever pieces they come."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from apportion.deployments.engine.external.counted import Counted, counted
from apportion.deployments.engine.external.errors import envelope, trouble_of
from apportion.deployments.engine.external.events import EventStream, generated

USAGE = b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'
STREAM = (
    b": connected\n\n"
    b'data: {"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"\xc3\xa4 "}}],"usage":null}\n\n'
    b': x-router-settled-cost-usd 0 0 0\n\ndata: {"choices":[{"index":0,"delta":{"content":"b"}}]}\r\n\r\n'
    b'data: {"choices":[],"usage":' + USAGE + b"}\n\ndata: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_go_on_whole_without_what_nobody_asked_for(size: int) -> None:
    stream = EventStream(usage_wanted=False)
    passed = b"".join(b"".join(stream.events(STREAM[i : i + size])) for i in range(0, len(STREAM), size))
    assert passed.split(b"\n\n") == [
        'data: {"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"ä "}}]}'.encode(),
        b'data: {"choices":[{"index":0,"delta":{"content":"b"}}]}',
        b"",
    ]
    assert b"settled" not in passed  # what an answer costs is said by this service alone
    assert (stream.complete, stream.done, stream.error, stream.size) == (True, True, None, 4)
    assert counted(stream.usage) == Counted(3, 0, 2)


def test_usage_goes_on_to_who_asked_for_it() -> None:
    stream = EventStream(usage_wanted=True)
    assert USAGE in b"".join(stream.events(STREAM))


@pytest.mark.parametrize(
    "said", [b'{"error":{"message":"gone"}}', b'{"type":"error","error":{"type":"overloaded_error"}}']
)
def test_an_error_ends_it(said: bytes) -> None:
    stream = EventStream(usage_wanted=False)
    assert list(stream.events(b"data: " + said + b"\n\n")) == []
    assert (stream.error, stream.complete) == (said, False)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": "3"}, None),
        ({"prompt_tokens": -1, "input_tokens": 4}, Counted(4, 0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 5}, Counted(9, 5, 2)),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 50}},
            Counted(9, 9, 2),
        ),
        ({"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 5}}, Counted(9, 5, 2)),
        (
            {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 4},
            Counted(18, 5, 2),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 31}, Counted(9, 0, 22)),
    ],
)
def test_tokens_in_the_words_of_each_api(usage: object, tokens: Counted | None) -> None:
    assert counted(usage) == tokens


NAMES = [
    "choices",
    "delta",
    "text",
    "content",
    "usage",
    "error",
    "message",
    "code",
    "type",
    "param",
    "detail",
    "prompt_tokens",
    "status",
    "response",
]


def thing(chance: random.Random, depth: int = 0) -> Any:
    """JSON that providers may send by mistake: the right names, and whatever behind them."""
    kind = chance.randrange(8 if depth < 4 else 5)
    if kind >= 6:
        return {chance.choice(NAMES): thing(chance, depth + 1) for _ in range(chance.randrange(5))}
    if kind == 5:
        return [thing(chance, depth + 1) for _ in range(chance.randrange(4))]
    return (None, True, -1, 1e300, chance.choice(["", "error", "[DONE]", "message_stop", "\u2028"]))[kind]


def test_nothing_that_a_provider_may_say_is_unforeseen() -> None:
    chance = random.Random(0)
    for _ in range(3000):
        told = thing(chance)
        body = json.dumps(told).encode()
        stream = EventStream(usage_wanted=chance.random() < 0.5)
        b"".join(stream.events(b"data: " + body + b"\n\n"))
        counted(stream.usage)
        assert generated(told) >= 0
        assert trouble_of(404, body) in {None, "credentials refused"}
        assert isinstance(envelope(body, 400, str)["error"]["message"], str)
    assert envelope(b"[" * 100_000, 400, str)["error"]["message"]
