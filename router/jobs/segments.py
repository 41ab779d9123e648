"""Results of a job on their way: kept in small groups as they come, and merged in the order of the lines at the end.

An owner of a job writes `jobs/JOB/EPOCH-N.results`, to which a group of results is added at a time, on disk before it
counts; in an object store each group is an object. Who takes a job over lists what is there in a *manifest*: what an
earlier owner writes after that is in no manifest, and counts for nothing. Of several results of a request the first
one in the manifest's order holds.

A result is a line: `[row, ok, checksum, model, cost_nano, [input, cached, output, reasoning]]`, a tab, and the line
that goes into the output or the error file. A tail that was cut off, or never came to the disk, ends a segment.

Of a cascade the list ends with what stage it is of (`stages.py`): a first answer holds until the second one's result
takes its place, or says that it stays.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from apportion.router.arrays import BoolArray
from apportion.router.jobs.blobs import Blobs
from apportion.router.jobs.lines import RawLine
from apportion.router.jobs.stages import FirstStage, HeldAnswers, SecondStage, Stage, unpacked_stage

SEGMENT_BYTES = 64 << 20  # of a file that groups are added to
_READ_BYTES = 1 << 20
_NONE = -1


class Tokens(NamedTuple):
    """What requests took and gave."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request.

    Args:
        row: its place among the job's requests.
        ok: whether its line goes into the output file; else into that of errors.
        line: as `lines.answered_line` or `unanswered_line` makes it.
        model: that answered; None: none did.
        cost_nano: nano-USD that it cost; of a cascade, that this stage did.
        stage: of a cascade; None: it is none.
    """

    row: int
    ok: bool
    line: bytes
    model: str | None = None
    cost_nano: int = 0
    tokens: Tokens = NO_TOKENS
    stage: Stage | None = None

    def packed(self) -> bytes:
        head: list[object] = [self.row, int(self.ok), zlib.crc32(self.line), self.model, self.cost_nano, self.tokens]
        if self.stage is not None:
            head.append(self.stage.packed())
        return json.dumps(head, separators=(",", ":")).encode() + b"\t" + self.line + b"\n"


class Segment(NamedTuple):
    """So many bytes of a file of results count."""

    path: str
    size: int


def folder_of(job: str) -> str:
    return f"jobs/{job}"


class SegmentWriter:
    """Keeps the results of one owner of a job. Blocking; used by one thread at a time.

    Args:
        epoch: of the owner's lease.
    """

    def __init__(self, blobs: Blobs, job: str, epoch: int) -> None:
        self._blobs = blobs
        self._name = f"{folder_of(job)}/{epoch:06d}"
        self._number = 0
        self._size = 0

    def write(self, results: Iterable[Result]) -> None:
        """Adds a group: once it returns, all of them are kept.

        Raises:
            OSError: perhaps none of them is.
        """
        data = b"".join(result.packed() for result in results)
        if not data:
            return
        if self._size and (not self._blobs.appends or self._size + len(data) > SEGMENT_BYTES):
            self._next()
        path = f"{self._name}-{self._number:06d}.results"
        try:
            self._blobs.append(path, data)
        except BaseException:
            self._next()  # behind half a group nothing more would be read
            raise
        self._size += len(data)

    def _next(self) -> None:
        self._number += 1
        self._size = 0


def manifest_of(blobs: Blobs, job: str) -> list[Segment]:
    """All results of a job that are there at this moment, in the order in which they count."""
    found = blobs.list(folder_of(job))
    return [Segment(blob.path, blob.size) for blob in found if blob.path.endswith(".results")]


def scan(blobs: Blobs, segments: Iterable[Segment]) -> Iterator[tuple[int, int, Result]]:
    """All results of the segments: place of the segment, offset of the line within it, result."""
    for place, segment in enumerate(segments):
        with blobs.reading(segment.path) as stream:
            for offset, line in _lines(stream, segment.size):
                head, _, text = line.partition(b"\t")
                result = _result(head, text)
                if result is None:  # a tail that the disk never had
                    break
                yield place, offset + len(head) + 1, result


def _lines(stream: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines of the first bytes of a stream, with where each begins."""
    kept, start, left = b"", 0, size
    while left > 0 and (piece := stream.read(min(_READ_BYTES, left))):
        left -= len(piece)
        *lines, kept = (kept + piece).split(b"\n")
        for line in lines:
            yield start, line
            start += len(line) + 1


def _result(head: bytes, text: bytes) -> Result | None:
    try:
        row, ok, checksum, model, cost_nano, tokens, *told = json.loads(head)
        if zlib.crc32(text) != checksum:
            return None
        stage = unpacked_stage(told[0]) if told else None
        return Result(row, bool(ok), text, model, cost_nano, Tokens(*tokens), stage)
    except (ValueError, TypeError):
        return None


@dataclass
class Totals:
    """What a job's results add up to.

    by_model: rows, of cascades that were asked on as `first>second`; first_answers: that were held; asked_on: for how
    many of them a second one was given.
    """

    completed: int = 0
    failed: int = 0
    cost_nano: int = 0
    tokens: Tokens = NO_TOKENS
    by_model: dict[str, int] = field(default_factory=dict)
    first_answers: int = 0
    asked_on: int = 0

    def add(self, result: Result) -> None:
        stage = result.stage
        self.cost_nano += result.cost_nano
        self.tokens = Tokens(*(a + b for a, b in zip(self.tokens, result.tokens, strict=True)))
        if isinstance(stage, SecondStage):
            if not stage.kept:
                self.asked_on += 1
                self._count(stage.first, -1)
                self._count(f"{stage.first}>{result.model}", 1)
            return
        self.first_answers += stage is not None
        self.completed += result.ok
        self.failed += not result.ok
        if result.model is not None:
            self._count(result.model, 1)

    def _count(self, model: str, rows: int) -> None:
        count = self.by_model.pop(model, 0) + rows
        if count:
            self.by_model[model] = count


class ResultIndex:
    """Where the result of each request lies; 31 bytes a request.

    Args:
        total: requests of the job.

    Attributes:
        held: first answers of cascades, which are results until there is a better one.
    """

    def __init__(self, total: int) -> None:
        self.totals = Totals()
        self.held = HeldAnswers(total)
        self._segment = np.full(total, _NONE, np.int32)
        self._offset = np.zeros(total, np.int64)
        self._length = np.zeros(total, np.int64)
        self._ok = np.zeros(total, np.bool_)

    @classmethod
    def of(cls, blobs: Blobs, segments: Iterable[Segment], total: int) -> ResultIndex:
        """Reads all segments; the first result of a request holds, and rows that the job has not are left out."""
        index = cls(total)
        for place, offset, result in scan(blobs, segments):
            if 0 <= result.row < total and index._counts(result):
                index._take(place, offset, result)
        return index

    def _counts(self, result: Result) -> bool:
        """Whether it is the first of its row, or the first second stage of one that is held."""
        if isinstance(result.stage, SecondStage):
            return result.row in self.held
        return bool(self._segment[result.row] == _NONE)

    def _take(self, place: int, offset: int, result: Result) -> None:
        row, stage = result.row, result.stage
        self.totals.add(result)
        if isinstance(stage, FirstStage):
            self.held.hold(row, result.model or "", stage)
        elif isinstance(stage, SecondStage):
            self.held.drop(row)
            if stage.kept:
                return
        self._segment[row], self._offset[row] = place, offset
        self._length[row], self._ok[row] = len(result.line), result.ok

    @property
    def done(self) -> BoolArray:
        """By row, whether there is a result that none takes the place of."""
        return np.asarray(self._segment != _NONE) & ~self.held.rows

    def place(self, row: int) -> tuple[int, int, int, bool] | None:
        """Segment, offset, bytes, and whether it is for the output file; None: there is no result."""
        if self._segment[row] == _NONE:
            return None
        return int(self._segment[row]), int(self._offset[row]), int(self._length[row]), bool(self._ok[row])


@dataclass(frozen=True)
class Merged:
    """Bytes of the two files; 0: there is none."""

    output: int
    errors: int


def merge(
    blobs: Blobs,
    segments: Sequence[Segment],
    index: ResultIndex,
    lines: Iterable[RawLine],
    *,
    output: str,
    errors: str,
    missing: Callable[[RawLine], bytes],
) -> Merged:
    """Writes the output and the error file of a job, in the order of its lines; a file without a line is not made.

    Holds one line of results, and where the others lie.

    Args:
        index: of these segments.
        lines: of the job's input.
        output, errors: paths of the two files.
        missing: makes the line of a request that has no result, for the error file.

    Raises:
        OSError: a file cannot be read or written.
    """
    with _Results(blobs, segments) as results, _Target(blobs, output) as good, _Target(blobs, errors) as bad:
        for line in lines:
            if (found := index.place(line.row)) is None:
                bad.write(missing(line))
            else:
                segment, offset, length, ok = found
                (good if ok else bad).write(results.read(segment, offset, length))
    return Merged(good.size, bad.size)


class _Results(contextlib.ExitStack):
    """Segments to read in any order: files where they lie; objects are fetched once into a file, not once a line."""

    def __init__(self, blobs: Blobs, segments: Sequence[Segment]) -> None:
        super().__init__()
        self._streams: list[BinaryIO] = []
        self._starts: list[int] = []
        if blobs.appends:
            self._streams = [self.enter_context(blobs.reading(segment.path)) for segment in segments]
            self._starts = [0] * len(segments)
            return
        copy = cast(BinaryIO, self.enter_context(tempfile.TemporaryFile()))  # noqa: SIM115
        for segment in segments:
            self._streams.append(copy)
            self._starts.append(copy.tell())
            with blobs.reading(segment.path) as stream:
                shutil.copyfileobj(stream, copy, _READ_BYTES)

    def read(self, segment: int, offset: int, length: int) -> bytes:
        stream = self._streams[segment]
        stream.seek(self._starts[segment] + offset)
        return stream.read(length)


class _Target:
    """A file that is made with its first line."""

    def __init__(self, blobs: Blobs, path: str) -> None:
        self._blobs = blobs
        self._path = path
        self._stack = contextlib.ExitStack()
        self._stream: BinaryIO | None = None
        self.size = 0

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.__exit__(*failure)  # type: ignore[arg-type]

    def write(self, line: bytes) -> None:
        if self._stream is None:
            self._stream = self._stack.enter_context(self._blobs.writing(self._path))
        self._stream.write(line + b"\n")
        self.size += len(line) + 1
