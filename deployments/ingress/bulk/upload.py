"""Reads a form with a file in it as it comes: the file goes to its place piece by piece, and is nowhere whole."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from apportion.router.errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedEncodingError,
    UploadTimeoutError,
)

MAX_FIELD_BYTES = 4096
MAX_PARTS = 16
FORM_BYTES = 1 << 16  # of a form beside its file
MAX_FILENAME_CHARS = 256
SLOWEST_BYTES_PER_S = 16_384  # on the whole: who sends slower keeps others out
_CONTROLS = re.compile(r"[\x00-\x1f\x7f/\\]")


class Form:
    """A form in pieces.

    Attributes:
        fields: its small fields by their names.
        filename: of its file; None: there was none yet.
        file_bytes: of the file, so far.
        ended: whether all of it has come.

    Args:
        content_type: of the request.
        most_bytes: of the file.

    Raises:
        InvalidRequestError: it is no form.
    """

    def __init__(self, content_type: str, most_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise InvalidRequestError("send the file as a form: multipart/form-data with the fields purpose and file")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.file_bytes = 0
        self.ended = False
        self._most_bytes = most_bytes
        self._parts = 0
        self._name: str | None = None  # of the part that comes; None: it is the file, or ignored
        self._in_file = False
        self._header: list[bytes] = [b"", b""]
        self._disposition = b""
        self._value = b""
        self._pieces: list[bytes] = []
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())
        except FormParserError as error:
            raise _broken() from error

    def take(self, data: bytes) -> bytes:
        """What the next bytes of the form hold of its file.

        Raises:
            InvalidRequestError: it is no form, or has more than one file.
            PayloadTooLargeError: the file or a field is too large.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _broken() from error
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": lambda data, start, end: self._add(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise PayloadTooLargeError(f"the form has more than {MAX_PARTS} fields; send purpose, expires_after, file")
        self._name, self._in_file, self._disposition, self._value = None, False, b"", b""

    def _add_header(self, place: int, data: bytes) -> None:
        self._header[place] += data

    def _end_header(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if name != "file":
            self._name = name
            return
        if self.filename is not None:
            raise InvalidRequestError("file: there is more than one; send each by itself", param="file")
        told = options.get(b"filename", b"").decode(errors="replace")
        self.filename = _CONTROLS.sub("_", told)[:MAX_FILENAME_CHARS] or "file.jsonl"
        self._in_file = True

    def _add(self, data: bytes) -> None:
        if self._in_file:
            self.file_bytes += len(data)
            if self.file_bytes > self._most_bytes:
                raise PayloadTooLargeError(f"file: it has more than {self._most_bytes} bytes; divide it", param="file")
            self._pieces.append(data)
            return
        self._value += data
        if len(self._value) > MAX_FIELD_BYTES:
            raise PayloadTooLargeError(f"a field of the form has more than {MAX_FIELD_BYTES} bytes; shorten it")

    def _end_part(self) -> None:
        if self._name is not None:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self.ended = True


async def receive(request: Request, most_bytes: int, stall_s: float, keep: Callable[[bytes], Any]) -> Form:
    """Reads a request's form to its end, and has the pieces of its file kept.

    Args:
        most_bytes: of the file.
        stall_s: longest time between two pieces.
        keep: awaited with each piece; the client waits for it.

    Raises:
        InvalidRequestError: it is no form, or not all of one.
        PayloadTooLargeError: the file is too large.
        UploadTimeoutError: nothing came for too long, or too little.
        ClientDisconnect: the client has left.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedEncodingError("send the file as it is, without a content-encoding")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > most_bytes + FORM_BYTES:
        raise PayloadTooLargeError(f"file: it has more than {most_bytes} bytes; divide it", param="file")
    form = Form(request.headers.get("content-type", ""), most_bytes)
    clock = asyncio.get_running_loop().time
    started_s, size = clock(), 0
    pieces = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(stall_s):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise UploadTimeoutError(f"nothing of the file came for {stall_s:g} s; send it faster") from None
        if piece is None:
            break
        size += len(piece)
        if size < SLOWEST_BYTES_PER_S * (clock() - started_s - stall_s):
            raise UploadTimeoutError(f"only {size} bytes came in {clock() - started_s:.0f} s; send them faster")
        if found := form.take(piece):
            await keep(found)
    if not form.ended:
        raise InvalidRequestError("the form has no end; send all of it, up to its last boundary")
    if form.filename is None:
        raise InvalidRequestError("file: missing; add it", param="file")
    return form


def _broken() -> InvalidRequestError:
    return InvalidRequestError("the body is no form as its content-type says; send multipart/form-data")
