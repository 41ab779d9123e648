"""The requests of outcomes files: texts that are encoded as the service would, and what else predictions go by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from apportion.router.chat import content_of, joined, printed, prompt_text
from apportion.router.errors import InvalidRequestError, OutcomesTableError
from apportion.router.outcomes.columns import UNKNOWN, Place, Spot, is_empty, numbers, text_of
from apportion.router.outcomes.table import TRAIT_COLUMNS
from apportion.router.traits import FIELDS, PLAIN, traits_of


def requests(frame: pd.DataFrame, at: Place) -> dict[str, list[Any]]:
    """Columns of an outcomes table's queries: `prompt`, and where a request is more than that, `TRAIT_COLUMNS`.

    Prompts are texts, or chats (`prompt` or `messages`) joined as the service joins them. A printed list of strings is
    one too, of user turns, where all prompts are such lists (RouterBench's are). Traits are those of the chats and of
    the fields beside them, but for what columns of `TRAIT_COLUMNS` say.

    Raises:
        OutcomesTableError: a row asks nothing, or what is no chat, or a field is not as OpenAI's bodies have it.
    """
    columns, given = _contents(frame)
    contents = joined(given)
    empty = None if set(TRAIT_COLUMNS).isdisjoint(frame) else ""  # such a prompt may have been a picture alone
    found: dict[str, list[Any]] = {
        "prompt": [
            content
            if isinstance(content, str) and content.isascii() and content
            else _prompt(content, Spot(at, row, columns[row]), empty)
            for row, content in enumerate(contents)
        ]
    }
    traits = [traits_of(content, fields) for content, fields in zip(contents, _fields(frame, at), strict=True)]
    counts = np.array(traits, dtype=np.float64).reshape(-1, len(PLAIN))
    for column, name in enumerate(TRAIT_COLUMNS):
        stated = numbers(frame, name, at)
        counts[:, column] = np.where(np.isnan(stated), counts[:, column], stated)
    if (counts != PLAIN).any():
        found |= dict(zip(TRAIT_COLUMNS, counts.astype(np.int64).T.tolist(), strict=True))
    return found


def _contents(frame: pd.DataFrame) -> tuple[list[str], list[Any]]:
    """In which column every row's content stands, and the contents."""
    absent = [None] * len(frame)
    columns, contents = [], []
    known: dict[str, Any] = {}
    for prompt, messages in zip(frame.get("prompt", absent), frame.get("messages", absent), strict=True):
        column, cell = ("messages", messages) if is_empty(prompt) and not is_empty(messages) else ("prompt", prompt)
        content = known.get(cell) if isinstance(cell, str) else None
        if content is None:
            content = content_of({"prompt": _plain(cell)})
            if isinstance(cell, str):
                known[cell] = content
        columns.append(column)
        contents.append(content)
    return columns, contents


def _prompt(content: Any, where: Spot, empty: str | None) -> str:
    if not isinstance(content, list):
        return text_of(content, where, empty)
    if content and all(isinstance(turn, str) for turn in content):
        return text_of("\n\n".join(content), where)
    try:
        return text_of(prompt_text(content), where, empty="")
    except InvalidRequestError as error:
        raise OutcomesTableError(f"{where}: {error.message}") from None


def _fields(frame: pd.DataFrame, at: Place) -> Iterator[dict[str, Any]]:
    """What every row says beside its content."""
    columns = {name: frame[name].tolist() for name in FIELDS if name in frame}
    known: dict[tuple[str, str], Any] = {}
    for row in range(len(frame)):
        found = {}
        for name, cells in columns.items():
            cell = cells[row]
            if not isinstance(cell, str):
                found[name] = _field(cell, Spot(at, row, name))
                continue
            if (name, cell) not in known:
                known[name, cell] = _field(cell, Spot(at, row, name))
            found[name] = known[name, cell]
        yield found


def _field(cell: Any, where: Spot) -> Any:
    """A field as a body has it; None: it is empty."""
    if is_empty(cell) or (isinstance(cell, str) and cell.strip() in UNKNOWN):
        return None
    value = _plain(cell)
    if where.column == "tool_choice":
        return value
    value = printed(value) if isinstance(value, str) else value
    if where.column == "tools":
        right, asked = isinstance(value, list) and all(isinstance(one, Mapping) for one in value), "a list of objects"
    else:
        right, asked = isinstance(value, Mapping), "an object"
    if not right:
        raise OutcomesTableError(
            f"{where} is {cell!r:.80}: give {asked} as OpenAI's bodies have it, or name the column otherwise"
        )
    return value


def _plain(cell: Any) -> Any:
    """A cell in Python's own lists and dicts, without the fields that a columnar file had to fill with null."""
    if isinstance(cell, np.ndarray | list | tuple):
        return [_plain(part) for part in cell]
    if isinstance(cell, Mapping):
        return {name: _plain(value) for name, value in cell.items() if value is not None}
    return cell
