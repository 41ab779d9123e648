"""Files of requests as they come to the commands, a row in memory at a time: text, JSON lines, CSV and parquet."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from apportion.router.chat import printed
from apportion.router.errors import InvalidRequestError
from apportion.router.texts import streamed_lines, streamed_objects

COUNTS = ("max_tokens", "max_completion_tokens", "n")
CONTENT = ("prompt", "messages")
ROWS_AT_A_TIME = 1024

Row = tuple[str, Mapping[str, Any]]


def rows_of(file: Path) -> Iterator[Row]:
    """Where each row of a table of requests stands, and what it holds: .jsonl, .csv or .parquet.

    Raises:
        InvalidRequestError: a row cannot be read; names file and line.
    """
    readers = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    return readers[file.suffix](file)


def _json_rows(file: Path) -> Iterator[Row]:
    return ((f"{file}, line {number}", row) for number, row in streamed_objects(file))


def _csv_rows(file: Path) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a prompt may be longer than 128 kB
    # Text lines are checked for their encoding; a quoted cell may hold several of them.
    lines = (f"{line}\n" for _, line in streamed_lines(file, blank=True))
    reader = csv.DictReader(lines, restkey="", strict=True)
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            yield where, {name: _cell(name, text, where) for name, text in row.items() if name and text}
    except csv.Error as wrong:
        raise InvalidRequestError(
            f"{file}, line {reader.line_num}: no CSV ({wrong}); quote what holds quotes"
        ) from None


def _parquet_rows(file: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        parquet = ParquetFile(file)
    except (ArrowInvalid, OSError):
        raise InvalidRequestError(f"{file}: no parquet file; write it anew, or give .jsonl or .csv") from None
    number = 0
    for batch in parquet.iter_batches(ROWS_AT_A_TIME):
        for row in batch.to_pylist():
            number += 1
            yield f"{file}, row {number}", {name: _filled(value) for name, value in row.items() if _is_there(value)}


def _cell(name: str, text: str, where: str) -> Any:
    """A field as a body has it, from a cell that can only be text."""
    if name in COUNTS:
        try:
            return float(text)
        except ValueError:
            raise InvalidRequestError(f"{where}: {name} is no number; write a whole one, or nothing") from None
    found = None if name in CONTENT else printed(text)
    return text if found is None else found


def _is_there(value: Any) -> bool:
    return value is not None and value == value  # NaN is none


def _filled(value: Any) -> Any:
    """A value without the fields that a columnar file had to fill with null."""
    if isinstance(value, list):
        return [_filled(part) for part in value]
    if isinstance(value, Mapping):
        return {name: _filled(part) for name, part in value.items() if part is not None}
    return value
