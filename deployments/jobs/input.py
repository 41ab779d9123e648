"""A job's file of requests, of which any row can be read at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from typing import BinaryIO, cast

from apportion.router.jobs.blobs import Blobs
from apportion.router.jobs.lines import RawLine, Request, request_of

_COPY_BYTES = 1 << 20
_MARK = b"\xef\xbb\xbf"  # some editors begin files with it


class InputFile:
    """Where each row lies, 12 bytes a row; the rows stay on disk.

    Args:
        stream: a file of lines that were checked.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._starts, self._sizes = array("q"), array("i")
        start = 0
        stream.seek(0)
        for line in stream:
            if line.removeprefix(_MARK if start == 0 else b"").strip():
                self._starts.append(start)
                self._sizes.append(len(line))
            start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def line(self, row: int) -> RawLine:
        """A row as it stands."""
        text = os.pread(self._stream.fileno(), self._sizes[row], self._starts[row])
        return RawLine(row, row + 1, text.removeprefix(_MARK).strip())

    def lines(self) -> Iterator[RawLine]:
        """All rows, in their order."""
        return map(self.line, range(len(self)))

    def request(self, row: int) -> Request:
        """A row as it is read."""
        return request_of(self.line(row))


@contextlib.contextmanager
def local_copy(blobs: Blobs, path: str) -> Iterator[BinaryIO]:
    """A file of the store as one of this machine's; of an object store it is fetched once.

    Raises:
        OSError: it cannot be read.
    """
    with blobs.reading(path) as stream:
        if blobs.appends:
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, _COPY_BYTES)
            yield cast(BinaryIO, copy)
