"""Files of requests, one a line as JSON: read in bounded memory, checked as a whole, and answered line by line.

A line is `{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}`. Its answer is `{"id", "custom_id",
"response": {"status_code", "request_id", "body"} | null, "error": {"code", "message"} | null}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
MAX_MISTAKES = 100  # that are told
MAX_CUSTOM_ID_CHARS = 512
_READ_BYTES = 1 << 20
_SHOWN = 80  # characters of what is wrong that a message shows


class Source(Protocol):
    """What bytes are read from."""

    def read(self, nbytes: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line as it stands in its file, blank ones not counted in `row`.

    Args:
        row: its place among the requests, from 0.
        number: its place among all lines, from 1, as people count.
        text: without the line's end; the beginning of one that is longer than lines may be.
        whole: whether the text is all of it.
    """

    row: int
    number: int
    text: bytes
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a job."""

    row: int
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LineMistake:
    """What is wrong with a file of requests; as OpenAI tells it.

    Args:
        line: from 1; None: it is the whole file's.
    """

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def told(self) -> dict[str, str | int | None]:
        """As it stands in `errors.data` of a batch."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True)
class LineRules:
    """What lines have to be.

    Args:
        endpoint: that all of them name.
        max_lines: requests of a file.
        max_line_bytes: of a line.
        wrong_model: says what is wrong with a model's name; None: nothing.
    """

    endpoint: str
    max_lines: int
    max_line_bytes: int
    wrong_model: Callable[[str], str | None] = lambda _: None


@dataclass
class Checked:
    """What was found in a file: how many requests, and the first mistakes of all that there are."""

    total: int = 0
    mistakes: list[LineMistake] = field(default_factory=list)
    wrong: int = 0

    def add(self, mistake: LineMistake) -> None:
        self.wrong += 1
        if len(self.mistakes) < MAX_MISTAKES:
            self.mistakes.append(mistake)

    def told(self) -> list[dict[str, str | int | None]]:
        """As `errors.data` of a batch; says how many more there are than it holds."""
        found = [mistake.told() for mistake in self.mistakes]
        if self.wrong > len(found):
            more = f"{self.wrong - len(found)} more lines are wrong; correct these, and send the file again"
            found.append(LineMistake("more_errors", more).told())
        return found


def read_lines(source: Source, max_line_bytes: int) -> Iterator[RawLine]:
    """The lines of a file that are not blank; holds one of them, and a piece of the file."""
    row = 0
    for number, (text, whole) in enumerate(_split(source, max_line_bytes), start=1):
        text = text.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else text.strip()
        if text:
            yield RawLine(row, number, text, whole)
            row += 1


def _split(source: Source, max_line_bytes: int) -> Iterator[tuple[bytes, bool]]:
    kept, whole = b"", True
    while piece := source.read(_READ_BYTES):
        *ends, rest = piece.split(b"\n")
        for end in ends:
            kept += end
            yield kept[:max_line_bytes], whole and len(kept) <= max_line_bytes
            kept, whole = b"", True
        kept += rest
        if len(kept) > max_line_bytes:
            kept, whole = kept[:max_line_bytes], False
    if kept:
        yield kept, whole


def check_lines(source: Source, rules: LineRules) -> Checked:
    """Reads all lines and finds all that is wrong with them; a file with more lines than may be is read no further.

    Keeps a hash of each `custom_id`: two different ones are taken for the same once in some ten million files of a
    million lines.
    """
    checked, seen = Checked(), set[int]()
    for line in read_lines(source, rules.max_line_bytes):
        if line.row >= rules.max_lines:
            message = f"the file has more than {rules.max_lines} requests; divide it"
            checked.add(LineMistake("too_many_tasks", message))
            break
        checked.total += 1
        found = _checked(line, rules)
        if isinstance(found, LineMistake):
            checked.add(found)
            continue
        if (known := hash(found.custom_id)) in seen:
            shown = repr(found.custom_id[:_SHOWN])
            message = f"custom_id {shown} stands in an earlier line too; give each its own"
            checked.add(LineMistake("duplicate_custom_id", message, "custom_id", line.number))
        seen.add(known)
    if not checked.total:
        checked.add(LineMistake("empty_file", "the file has no request; write one a line, as JSON"))
    return checked


def _checked(line: RawLine, rules: LineRules) -> Request | LineMistake:
    def wrong(code: str, message: str, param: str | None = None) -> LineMistake:
        return LineMistake(code, message, param, line.number)

    if not line.whole:
        return wrong("line_too_long", f"the line has more than {rules.max_line_bytes} bytes; shorten it")
    try:
        value = json.loads(line.text)
    except (ValueError, RecursionError):
        return wrong("invalid_json_line", "the line is no JSON; write one object a line, without line breaks in it")
    if not isinstance(value, dict):
        return wrong("invalid_json_line", "the line is no JSON object; write {custom_id, method, url, body}")
    custom_id, method, url, body = (value.get(name) for name in ("custom_id", "method", "url", "body"))
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS or not _encodes(custom_id):
        return wrong("invalid_custom_id", f"give a text of 1 to {MAX_CUSTOM_ID_CHARS} characters", "custom_id")
    if method != "POST":
        return wrong("invalid_method", "must be POST", "method")
    if url != rules.endpoint:
        return wrong("invalid_url", f"must be {rules.endpoint}, the endpoint of the batch", "url")
    if not isinstance(body, dict):
        return wrong("invalid_body", "must be an object: the body of a request", "body")
    if body.get("stream"):
        return wrong("invalid_body", "a batch has no streams; leave it out", "body.stream")
    if not isinstance(body.get("routing", {}), dict | None):
        return wrong("invalid_body", "must be an object", "body.routing")
    model = body.get("model", "auto")
    problem = rules.wrong_model(model) if isinstance(model, str) else "must be a model's name"
    if problem is not None:
        return wrong("model_not_found", problem, "body.model")
    return Request(line.row, custom_id, url, body)


def _encodes(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON may name and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def request_of(line: RawLine) -> Request:
    """The request of a line that was checked."""
    value = json.loads(line.text)
    return Request(line.row, value["custom_id"], value["url"], value["body"])


def answered_line(job: str, request: Request, status: int, request_id: str, body: Any) -> bytes:
    """The line of a request that was answered, be it by a refusal; without the line's end.

    Args:
        body: of the answer, as JSON or as what JSON was read from.
    """
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _line(job, request, response, None)


def unanswered_line(job: str, request: Request, code: str, message: str) -> bytes:
    """The line of a request that nothing has answered; without the line's end."""
    return _line(job, request, None, {"code": code, "message": message})


def _line(job: str, request: Request, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    # The same name however often the line is sent.
    name = hashlib.blake2b(f"{job}.{request.row}".encode(), digest_size=12).hexdigest()
    line = {"id": f"batch_req_{name}", "custom_id": request.custom_id, "response": response, "error": error}
    return json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
