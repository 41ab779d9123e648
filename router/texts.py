"""Text files that people have: lines with their numbers, an object a line, and no half characters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apportion.router.errors import ApportionError, InvalidRequestError


def read_text(file: Path, error: type[ApportionError] = InvalidRequestError) -> str:
    """The text of a file, without a byte order mark.

    Args:
        error: what is raised when the file is not UTF-8; it names file and line.
    """
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = raw.count(b"\n", 0, wrong.start) + 1
        raise error(f"{file}, line {line}: not UTF-8; save the file with this encoding") from None


def numbered_lines(file: Path, error: type[ApportionError] = InvalidRequestError) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers in the file, from 1; a byte order mark is left out.

    Args:
        error: what is raised when the file is not UTF-8.
    """
    return list(streamed_lines(file, error))


def streamed_lines(
    file: Path, error: type[ApportionError] = InvalidRequestError, *, blank: bool = False
) -> Iterator[tuple[int, str]]:
    """The same, one line in memory at a time; with `blank` those that are blank too."""
    with file.open("rb") as stream:
        # Lines of bytes end at line feeds alone: prompts may hold form feeds, and separators that JSON leaves there.
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise error(f"{file}, line {number}: not UTF-8; save the file with this encoding") from None
            line = line.removesuffix("\n").removesuffix("\r")
            if blank or line.strip():
                yield number, line


def numbered_objects(file: Path, error: type[ApportionError] = InvalidRequestError) -> list[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file that has one a line, with the numbers of their lines.

    Args:
        error: what is raised when a line is no such object, or holds half of a surrogate pair; it names file and line.
    """
    return list(streamed_objects(file, error))


def streamed_objects(
    file: Path, error: type[ApportionError] = InvalidRequestError
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same, one line in memory at a time."""
    return ((number, _object(line, f"{file}, line {number}", error)) for number, line in streamed_lines(file, error))


def is_unicode(text: str) -> bool:
    """Whether the text can be written at all: half of a surrogate pair, as JSON can escape it, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(line: str, where: str, error: type[ApportionError]) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as wrong:
        raise error(f"{where} is not JSON ({wrong.msg}, column {wrong.colno}); write one object a line") from None
    except RecursionError:
        raise error(f"{where}: nested too deeply; write a plain object") from None
    if not isinstance(found, dict):
        raise error(f"{where}: a {type(found).__name__}; write one object a line")
    # Only an escape can bring half a pair in, since the file is UTF-8.
    if "\\u" in line and not is_unicode(json.dumps(found, ensure_ascii=False)):
        raise error(f"{where}: half of a surrogate pair (\\ud800 to \\udfff), which is no text; write both, or U+FFFD")
    return found
