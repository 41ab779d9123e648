"""Columns of outcomes files: numbers within their bounds, texts as they are written, each mistake with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apportion.router.arrays import FloatArray
from apportion.router.errors import OutcomesTableError
from apportion.router.texts import is_unicode

UNKNOWN = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>"]
"""How files write that there is nothing."""

MOST_TOKENS = 1e9
"""Of one answer, beyond any model's context: more is a mistake of whoever counted."""

_COMPOUND = (list, tuple, np.ndarray, Mapping)

Place = Callable[[int], str]
"""Says where a row of a frame stands: the file, and a line or a row."""


class Spot(NamedTuple):
    """Where a cell stands, worked out only when it is told: in a CSV that takes counting its lines."""

    at: Place
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.at(self.row)}, column {self.column!r}"


def row_of(name: str) -> Place:
    """Places in a file that has rows rather than lines."""
    return lambda row: f"{name}, row {row} (counted from 0)"


def require(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raises: OutcomesTableError: the frame lacks a column, or has it twice."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise OutcomesTableError(f"{name} lacks the columns {missing}; it has {list(frame.columns)}; add them")
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise OutcomesTableError(f"{name} has the column {twice!r} more than once; keep one")


def numbers(
    frame: pd.DataFrame, column: str, at: Place, at_most: float = math.inf, at_least: float = 0.0
) -> FloatArray:
    """A column's numbers from `at_least` to `at_most`, NaN where it is empty or absent.

    Raises:
        OutcomesTableError: a cell is no such number.
    """
    if column not in frame:
        return np.full(len(frame), np.nan)
    given = frame[column]
    found = pd.to_numeric(given, errors="coerce")
    wrong = (found.isna() & given.notna()).to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise OutcomesTableError(
            f"{at(row)}, column {column!r} is {given.iloc[row]!r:.80}: give a number, or leave it empty"
        )
    values = found.to_numpy(dtype=np.float64)
    outside = (values < at_least) | (values > at_most) | np.isinf(values)
    if outside.any():
        row = int(np.argmax(outside))
        if math.inf in {at_most, -at_least}:
            limit = "finite and not " + ("negative" if at_most == math.inf else f"above {at_most:g}")
        else:
            limit = f"between {at_least:g} and {at_most:g}"
        raise OutcomesTableError(
            f"{at(row)}, column {column!r} is {values[row]}: it must be {limit}; leave it empty if unknown"
        )
    return values


def texts(cells: Iterable[Any], column: str, at: Place, empty: str | None = None) -> list[str]:
    """A column's texts; a whole number is written without a point, so that 1 and 1.0 are one id.

    Args:
        empty: what stands for an empty cell; None: an empty cell is a mistake.

    Raises:
        OutcomesTableError: a cell is neither a text nor a number, or is empty and must not be.
    """
    return [
        cell if type(cell) is str and cell.isascii() and cell else text_of(cell, Spot(at, row, column), empty)
        for row, cell in enumerate(cells)
    ]


def check_same_ids(ids: Sequence[str], asked: Sequence[str], name: str) -> None:
    """Raises: OutcomesTableError: two ids of one prompt differ only in how they are written, as 1 and 1.0."""
    first: dict[tuple[str, str], str] = {}
    for written, prompt in zip(ids, asked, strict=True):
        plain = re.sub(r"^(-?\d+)\.0+$", r"\1", written.strip())
        other = first.setdefault((plain, prompt), written)
        if other != written:
            raise OutcomesTableError(
                f"{name}, column 'query_id': {other!r} and {written!r} have the same prompt and differ only in how "
                "they are written; write the id of a query in one way"
            )


def is_empty(cell: Any) -> bool:
    """Whether a cell holds nothing."""
    return cell == "" if isinstance(cell, str) else not isinstance(cell, _COMPOUND) and bool(pd.isna(cell))


def text_of(cell: Any, where: Spot, empty: str | None = None) -> str:
    """A cell's text, as `texts` reads it; `where` names its place."""
    if is_empty(cell):
        if empty is not None:
            return empty
        raise OutcomesTableError(f"{where} is empty: fill it in")
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))
    if not isinstance(cell, str | int | float | np.number | np.bool_):
        raise OutcomesTableError(
            f"{where} holds a {type(cell).__name__}: give a text or a number, or as a prompt a chat's messages"
        )
    if not is_unicode(found := str(cell)):
        raise OutcomesTableError(f"{where} holds half of a surrogate pair, which is no text: write both, or U+FFFD")
    return found
