import io
import json
from typing import Any

import pytest

from apportion.router.jobs.lines import (
    Checked,
    LineRules,
    Request,
    answered_line,
    check_lines,
    read_lines,
    request_of,
    unanswered_line,
)

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}]}
RULES = LineRules(CHAT, max_lines=1000, max_line_bytes=10_000)


def line(custom_id: Any = "a", **fields: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": BODY} | fields).encode()


def checked(*lines: bytes, rules: LineRules = RULES) -> Checked:
    return check_lines(io.BytesIO(b"\n".join(lines)), rules)


class Piecewise(io.RawIOBase):
    """A source that gives so many bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._stream, self._size = io.BytesIO(data), size

    def read(self, nbytes: int = -1, /) -> bytes:
        return self._stream.read(self._size)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_are_the_same_however_the_file_comes(size: int) -> None:
    text = b"\xef\xbb\xbfone\r\n\n  \ntwo\n\nlong-long-long\nlast"

    found = list(read_lines(Piecewise(text, size), max_line_bytes=9))

    assert [(one.row, one.number, one.whole) for one in found] == [
        (0, 1, True),
        (1, 4, True),
        (2, 6, False),
        (3, 7, True),
    ]
    assert [one.text for one in found if one.whole] == [b"one", b"two", b"last"]


def test_a_file_of_right_lines() -> None:
    found = checked(line("a"), b"", line("b", body=BODY | {"model": "auto", "stream": False, "routing": {}}))

    assert (found.total, found.mistakes) == (2, [])


@pytest.mark.parametrize(
    ("text", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff\xfe", "invalid_json_line", None),
        (b"[" * 5000, "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (line(7), "invalid_custom_id", "custom_id"),
        (line(""), "invalid_custom_id", "custom_id"),
        (line("x" * 513), "invalid_custom_id", "custom_id"),
        (line("\ud800"), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/completions"), "invalid_url", "url"),
        (line(body="hi"), "invalid_body", "body"),
        (line(body=BODY | {"stream": True}), "invalid_body", "body.stream"),
        (line(body=BODY | {"routing": []}), "invalid_body", "body.routing"),
        (line(body=BODY | {"model": 3}), "model_not_found", "body.model"),
        (line(body=BODY | {"model": "owl"}), "model_not_found", "body.model"),
        (line(body=BODY | {"user": "x" * 10_000}), "line_too_long", None),
    ],
)
def test_each_mistake_is_told_with_its_line(text: bytes, code: str, param: str | None) -> None:
    known = LineRules(CHAT, 1000, 10_000, lambda model: None if model == "auto" else f"there is no {model}")

    found = checked(line("first"), b"", text, line("last"), rules=known)

    assert [(one.code, one.param, one.line) for one in found.mistakes] == [(code, param, 3)]
    assert found.total == 3


def test_a_name_that_stands_twice_is_refused_at_its_second_line() -> None:
    assert [(one.code, one.line) for one in checked(line("a"), line("b"), line("a")).mistakes] == [
        ("duplicate_custom_id", 3)
    ]


def test_the_first_hundred_mistakes_are_told_and_the_rest_counted() -> None:
    told = checked(*[b"{"] * 150).told()

    assert [one["line"] for one in told] == [*range(1, 101), None]
    assert str(told[-1]["message"]).startswith("50 more lines")


def test_a_file_that_is_empty_or_too_long() -> None:
    assert [one.code for one in checked(b"", b" ").mistakes] == ["empty_file"]
    few = LineRules(CHAT, max_lines=2, max_line_bytes=10_000)
    assert [one.code for one in checked(line("a"), line("b"), line("c"), rules=few).mistakes] == ["too_many_tasks"]


def test_answers_keep_the_names_of_their_requests() -> None:
    (raw,) = read_lines(io.BytesIO(line("ü")), 1000)
    request = request_of(raw)
    assert request == Request(0, "ü", CHAT, BODY)

    good = json.loads(answered_line("batch_1", request, 200, "req-1", {"choices": []}))
    bad = json.loads(unanswered_line("batch_1", request, "batch_expired", "too late"))

    assert good["custom_id"] == bad["custom_id"] == "ü"
    assert good["id"] == bad["id"] != json.loads(unanswered_line("batch_2", request, "x", "y"))["id"]
    assert good["response"] == {"status_code": 200, "request_id": "req-1", "body": {"choices": []}}
    assert (good["error"], bad["response"]) == (None, None)
    assert bad["error"] == {"code": "batch_expired", "message": "too late"}
